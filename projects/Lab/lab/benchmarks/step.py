"""`projects/Lab/tools/benchmark.py step`: a step of CropField, all losses, against a plain DINOv2 step without the position loss.

Both start from the same weights and see the same crops; drop path as in the recipe. On one CPU thread the time is that
thread's own (CPU time), so that others on the machine count little; else it is the wall's.
"""

import argparse
import ctypes
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from lab.benchmarks.comparison import Comparison, compare
from lab.benchmarks.flops import count_flops, matmul_rate
from lab.benchmarks.step_case import LR, SHAPES, OurStep, make_batch, make_method
from lab.benchmarks.time_by_part import seconds_by_part
from pretrain.engine.cpu_memory import keep_freed_memory, use_huge_pages
from pretrain.errors import UserError
from pretrain.methods import distillation

REFERENCES = Path(__file__).resolve().parents[4] / "tests" / "reference"
PR_SET_THP_DISABLE = 41  # from Linux's prctl.h: no huge pages for this process


def run(options: argparse.Namespace) -> list[Comparison]:
    """ViT-S/16 (or --trunk), --images, 2 x 224 + 8 x 96, K = 65,536."""
    images, amp = options.images or 4, options.dtype == "bfloat16"
    use_huge_pages()  # torch reads this once; for the first half the kernel is told otherwise
    what = {"trunk": options.trunk, "images": images, "prototypes": 65536, "crops": "2 x 224 + 8 x 96"}
    return measure(
        lambda: OurStep(make_method(SHAPES[options.trunk]), make_batch(images), amp), what, options.pairs or 5
    )


def measure(make: Callable[[], OurStep], what: dict, pairs: int) -> list[Comparison]:
    """Against the plain step in float32 and, where ours runs under autocast, under autocast too; then rates.

    First with memory as the C library and the kernel give it, then with the trainer's settings of it
    (`pretrain.engine.cpu_memory`), which help both sides.
    """
    clock, results = thread_clock(), []
    what |= {"threads": torch.get_num_threads(), "clock": "CPU time" if clock else "wall"}
    for tuned in (False, True):
        set_memory(tuned)
        step = make()
        plains = {"float32": plain_case(step, False)} | ({"bfloat16": plain_case(step, True)} if step.amp else {})
        step(), *(plain() for plain in plains.values())  # the heap takes more than one step to settle
        for dtype, plain in plains.items():
            name = f"step, {'bfloat16' if step.amp else 'float32'}; plain in {dtype}" + ", memory tuned" * tuned
            results.append(compare(name, step, plain, pairs, what | {"memory_tuned": tuned}, clock))
    as_written, tuned = results[: len(plains)], results[len(plains) :]
    results[-1].tables["the trainer's step against the plain one as written: ratio of medians"] = [
        {"plain in": dtype, "ours, memory tuned / plain, as it comes": after.ours / before.plain}
        for dtype, before, after in zip(plains, as_written, tuned, strict=True)
    ]
    results[-1].tables["where the time of our step goes"] = where_the_time_goes(step)
    return [*results, achieved_rate(step, plains["bfloat16" if step.amp else "float32"], what, pairs, clock)]


def set_memory(tuned: bool) -> None:
    """As the trainer has it; or as the C library and the kernel give it, as long as this process never was tuned."""
    if hasattr(libc := ctypes.CDLL(None), "prctl"):
        libc.prctl(PR_SET_THP_DISABLE, int(not tuned), 0, 0, 0)
    if tuned:
        keep_freed_memory()


def plain_case(step: OurStep, amp: bool) -> Callable[[], float]:
    """The plain step, which is DINOv2's, on the same weights and batch."""
    plain = reference("plain_step")
    model = plain.PlainStep(step.method).to(step.device).train()
    optimizer = plain.plain_optimizer(model, LR)
    return lambda: sum(plain.plain_step(model, optimizer, step.batch, 0, amp).values()).item()


def reference(name: str) -> ModuleType:
    """A module of tests/reference, where the plain step is first of all what the tests compare with."""
    if not REFERENCES.is_dir():
        raise UserError(f"{REFERENCES} is missing, which has the plain step to compare with: run this from a checkout")
    if str(REFERENCES) not in sys.path:
        sys.path.append(str(REFERENCES))
    return importlib.import_module(name)


def thread_clock() -> Callable[[], float] | None:
    """CPU time where all runs on this thread; None, the wall's, elsewhere."""
    return time.thread_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else None


def where_the_time_goes(step: OurStep, repeats: int = 3) -> list[dict]:
    """Seconds of this thread in each part of a step; the prototype losses make their gradient as they go forward."""
    method = step.method
    parts = {
        "teacher trunk": (method, "teacher_features"),
        "student trunk": (method, "student_features"),
        "class-token loss": (method, "image_loss"),
        "patch losses": (method, "patch_loss"),
        "prototype losses": (method, "cross_entropy"),
        "KoLeo": (distillation, "koleo_loss"),
        "backward": (step, "backward"),
        "clip": (step.trainer, "clip_gradients"),
        "AdamW": (step.optimizer, "step"),
        "centres and teacher": (method, "after_step"),
    }
    found, total = seconds_by_part(lambda: [step() for _ in range(repeats)], parts)
    seconds = {part: spent / repeats for part, (spent, _) in found.items()}
    total /= repeats
    seconds["heads"] = seconds.pop("class-token loss") + seconds.pop("patch losses") - seconds["prototype losses"]
    order = ("teacher trunk", "student trunk", "heads", "prototype losses", "KoLeo", *list(parts)[6:])
    rows = [{"part": part, "seconds": seconds[part], "share": seconds[part] / total} for part in order]
    rest = total - sum(row["seconds"] for row in rows)
    return [*rows, {"part": "the rest", "seconds": rest, "share": rest / total}]


def achieved_rate(step: OurStep, plain: Callable, what: dict, pairs: int, clock) -> Comparison:
    """Operations a second of our step (as `ours`) and of a large matrix product (as `plain`), in turns."""
    dtype = torch.bfloat16 if step.amp else torch.float32
    flops, seconds, products = count_flops(step), [], []
    product = matmul_rate(step.device.type, dtype, clock=clock)
    timer = clock or time.perf_counter
    for _ in range(pairs):
        products.append(product())
        start = timer()
        step()
        seconds.append(timer() - start)
    rates = [flops / s / 1e9 for s in seconds]
    what = what | {"matmul": "2048 x 2048 x 2048"}
    result = Comparison.of(
        "rate of our step; of a large matmul", rates, [p / 1e9 for p in products], what, unit="GFLOP/s"
    )
    result.tables["arithmetic of a step"] = [
        {"step": "ours", "GFLOP": flops / 1e9},
        {"step": "plain, no position loss", "GFLOP": count_flops(plain) / 1e9},
    ]
    return result
