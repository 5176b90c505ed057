"""Compare two implementations, interleaved in one process, and profile the parts of one.

On a shared machine absolute times vary, but the ratio of neighbouring runs is stable. `torch.utils.benchmark` has a
timer that synchronises with the GPU, but measures one statement after the other.
"""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.benchmark import timer

from pretrain.errors import UserError


@dataclass
class Comparison:
    """Measurements of `ours` and `plain`, made by `Comparison.of` or `compare`.

    ours, plain: medians over the pairs, in `unit`. ratio: median over pairs of ours / plain; below 1 is better if
    `unit` is time or memory. spread: lower and upper quartile of the ratios. what: description of the case, plain
    values. tables: additional tables by title, each a list of dicts.
    """

    name: str
    ours: float
    plain: float
    ratio: float
    spread: tuple[float, float]
    what: dict
    unit: str = "s"
    tables: dict[str, list[dict]] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, ours: Sequence[float], plain: Sequence[float], what: dict, unit: str = "s") -> "Comparison":
        """Summarise the measurements of each pair, in the order in which they were taken."""
        ratios = [a / b for a, b in zip(ours, plain, strict=True)]
        medians = [statistics.median(values) for values in (ours, plain, ratios)]
        spread = tuple(np.percentile(ratios, (25, 75)).tolist())
        return cls(name, *medians, spread, what | {"pairs": len(ratios)}, unit)


def compare(
    name: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    num_pairs: int,
    what: dict | None = None,
    clock: Callable[[], float] = timer,
) -> Comparison:
    """Time one call of each: a warm-up, then `num_pairs` pairs in the order A B, B A, A B, ...

    Raises `UserError` for zero pairs.
    """
    if num_pairs < 1:
        raise UserError(f"--pairs {num_pairs}: at least one pair must be measured")
    ours(), plain()
    sides = [(ours, []), (plain, [])]
    for number in range(num_pairs):
        for call, taken in sides if number % 2 == 0 else reversed(sides):
            start = clock()
            call()
            taken.append(clock() - start)
    return Comparison.of(name, sides[0][1], sides[1][1], what or {})


def thread_clock() -> tuple[Callable[[], float], dict]:
    """This thread's CPU time if torch uses one thread, so that other load on the machine matters little; else wall
    time.

    Returns the clock, and its description for `Comparison.what`.
    """
    threads = torch.get_num_threads()
    if threads == 1 and not torch.cuda.is_available():
        return time.thread_time, {"threads": threads, "clock": "CPU time"}
    return timer, {"threads": threads, "clock": "wall"}


def seconds_by_part(
    call: Callable[[], object], parts: Mapping[str, tuple[ModuleType | object, str]]
) -> tuple[dict[str, tuple[float, int]], float]:
    """Run `call` and time some functions in it.

    parts: label -> (module, attribute name) of each function, as its callers look it up. Returns label -> (seconds of
    this thread, calls), and the total seconds. If a part calls another, the time counts for both.
    """
    spent = {label: [0.0, 0] for label in parts}

    def timed(function: Callable, record: list) -> Callable:
        def run(*args, **options):
            start = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                record[0] += time.thread_time() - start
                record[1] += 1

        return run

    with ExitStack() as patches:
        for label, (module, name) in parts.items():
            patches.enter_context(patch.object(module, name, timed(getattr(module, name), spent[label])))
        start = time.thread_time()
        call()
        total = time.thread_time() - start
    return {label: tuple(record) for label, record in spent.items()}, total


def share_table(seconds: dict[str, float], total: float) -> list[dict]:
    """One row for each part, and one for the rest of `total`."""
    seconds = seconds | {"the rest": total - sum(seconds.values())}
    return [{"part": part, "seconds": spent, "share": spent / total} for part, spent in seconds.items()]


def machine() -> dict:
    """What the results depend on: CPU, threads, package versions, and the machine's load beforehand."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)", info.read_text(), re.MULTILINE) if info.exists() else None
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }
