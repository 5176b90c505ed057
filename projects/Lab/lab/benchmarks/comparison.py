"""Two implementations measured against each other, interleaved in one process.

On a machine that others use too, seconds say little and the ratio of two neighbouring runs says much.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from pretrain.errors import UserError


@dataclass
class Comparison:
    """What was measured of `ours` and `plain`; `Comparison.of` and `compare` make one.

    ours, plain: medians over the pairs, in `unit`. ratio: the median over pairs of ours / plain; below 1 is better,
    where `unit` is time or memory. spread: lower and upper quartile of those ratios. what: what was run, as plain
    values. tables: further figures by title, each a list of rows, each row a dict of columns.
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
        """From the figures of each pair, in the order in which they were measured."""
        ratios = [a / b for a, b in zip(ours, plain, strict=True)]
        low, high = np.percentile(ratios, (25, 75)).tolist()
        what = what | {"pairs": len(ratios)}
        return cls(
            name, statistics.median(ours), statistics.median(plain), statistics.median(ratios), (low, high), what, unit
        )

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


def compare(
    name: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    pairs: int,
    what: dict | None = None,
    clock: Callable[[], float] | None = None,
) -> Comparison:
    """Seconds of one call of each: a warm-up each, then `pairs` pairs in the order A B, B A, A B, ...

    clock: None is the wall's, `time.perf_counter`; for what runs on one thread, `time.thread_time` leaves out the time
    that the thread waited for others.
    Raises `UserError` when `pairs` is below 1.
    """
    if pairs < 1:
        raise UserError(f"--pairs {pairs}: at least one pair must be measured")
    clock = clock or time.perf_counter
    ours(), plain()
    taken = {ours: [], plain: []}
    for number in range(pairs):
        for call in (ours, plain) if number % 2 == 0 else (plain, ours):
            start = clock()
            call()
            taken[call].append(clock() - start)
    return Comparison.of(name, taken[ours], taken[plain], what or {})


def machine() -> dict:
    """What the figures depend on: processor, threads, versions, and how busy the machine was before."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
