"""`benchmark.py step`: a CropField step with all losses, against a plain DINOv2 step without position loss.

Both use the same weights, crops and drop path. With one CPU thread the time is that thread's CPU time, so that other
load on the machine matters little; else wall time.
"""

import argparse
import ctypes
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from lab.benchmarks.cases import LR, SHAPES, OurStep, make_batch, make_method
from lab.benchmarks.comparison import Comparison, compare, seconds_by_part, share_table, thread_clock
from lab.benchmarks.flops import achieved_rate, count_flops
from pretrain.engine.cpu_memory import keep_freed_memory, use_huge_pages
from pretrain.errors import UserError
from pretrain.methods import distillation

REFERENCES = Path(__file__).resolve().parents[4] / "tests" / "reference"
PR_SET_THP_DISABLE = 41  # from Linux's prctl.h: no huge pages for this process


def run(options: argparse.Namespace) -> list[Comparison]:
    """ViT-S/16 (or --backbone), --images, 2 x 224 + 8 x 96, K = 65,536."""
    images, amp = options.images or 4, options.dtype == "bfloat16"
    use_huge_pages()  # torch reads this once; the first half disables it in the kernel
    what = {"backbone": options.backbone, "images": images, "prototypes": 65536, "crops": "2 x 224 + 8 x 96"}
    shape = SHAPES[options.backbone]
    return measure(lambda: OurStep(make_method(shape), make_batch(images), amp), what, options.pairs or 5)


def measure(make: Callable[[], OurStep], what: dict, num_pairs: int, matrix: int = 2048) -> list[Comparison]:
    """Compare with the plain step in float32 and, if ours uses autocast, under autocast too; then measure rates.

    First with the default memory settings of C library and kernel, then with the trainer's
    (`pretrain.engine.cpu_memory`), which help both sides.
    """
    clock, about = thread_clock()
    what, results = what | about, []
    for tuned in (False, True):
        set_memory(tuned)
        step = make()
        plains = {"float32": plain_case(step, False)} | ({"bfloat16": plain_case(step, True)} if step.amp else {})
        step(), *(plain() for plain in plains.values())  # the heap needs more than one step to settle
        for dtype, plain in plains.items():
            name = f"step, {'bfloat16' if step.amp else 'float32'}; plain in {dtype}" + ", memory tuned" * tuned
            results.append(compare(name, step, plain, num_pairs, what | {"memory_tuned": tuned}, clock))
    as_written, tuned = results[: len(plains)], results[len(plains) :]
    results[-1].tables["the trainer's step against the plain one as written: ratio of medians"] = [
        {"plain in": dtype, "ours, memory tuned / plain, as it comes": after.ours / before.plain}
        for dtype, before, after in zip(plains, as_written, tuned, strict=True)
    ]
    results[-1].tables["where the time of our step goes"] = time_of_parts(step)
    flops, name = count_flops(step), "rate of our step; of a large matmul"
    rate, _ = achieved_rate(name, step, flops, num_pairs, matrix, "GFLOP/s", what, clock)
    rate.tables["arithmetic of a step"] = [
        {"step": "ours", "GFLOP": flops / 1e9},
        {"step": "plain, no position loss", "GFLOP": count_flops(plain) / 1e9},  # the last: of the same dtype
    ]
    return [*results, rate]


def set_memory(tuned: bool) -> None:
    """As the trainer has it; or as the C library and the kernel give it, as long as this process never was tuned."""
    if hasattr(libc := ctypes.CDLL(None), "prctl"):
        libc.prctl(PR_SET_THP_DISABLE, int(not tuned), 0, 0, 0)
    if tuned:
        keep_freed_memory()


def plain_case(step: OurStep, amp: bool) -> Callable[[], float]:
    """The plain DINOv2 step on the same weights and batch."""
    plain = reference("plain_step")
    model = plain.PlainStep(step.method).to(step.device).train()
    optimizer = plain.plain_optimizer(model, LR)
    return lambda: sum(plain.plain_step(model, optimizer, step.batch, 0, amp).values()).item()


def reference(name: str) -> ModuleType:
    """Import a module of tests/reference, where the plain step also serves as the reference of the tests."""
    if not REFERENCES.is_dir():
        raise UserError(f"{REFERENCES} is missing, which has the plain step to compare with: run this from a checkout")
    if str(REFERENCES) not in sys.path:
        sys.path.append(str(REFERENCES))
    return importlib.import_module(name)


def time_of_parts(step: OurStep, repeats: int = 3) -> list[dict]:
    """Seconds of this thread in each part of a step; the prototype losses compute their gradient in the forward
    pass.
    """
    method = step.method
    parts = {
        "teacher backbone": (method, "teacher_features"),
        "student backbone": (method, "student_features"),
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
    heads = seconds.pop("class-token loss") + seconds.pop("patch losses") - seconds["prototype losses"]
    backbones = {part: seconds.pop(part) for part in ("teacher backbone", "student backbone")}
    return share_table(backbones | {"heads": heads} | seconds, total / repeats)
