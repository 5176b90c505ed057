"""`tools/benchmark.py gpu`: images a second, and the share of the card's measured bf16 peak, on one GPU.

Pretraining of ViT-S and ViT-B (--images an iteration, 64 by default) and a training iteration of their Mask R-CNN at
1024 x 1024, in bf16 autocast: eager and with compiled blocks, attention by xformers and by torch's SDPA. The peak is
that of a product of two 8192 x 8192 matrices. Without a GPU it says so.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from pretrain.benchmarks.detection_case import DetectorCase
from pretrain.benchmarks.flops import count_flops, matmul_rate
from pretrain.benchmarks.pairs import Comparison
from pretrain.benchmarks.step_case import SHAPES, OurStep, make_batch, make_method
from pretrain.errors import UserError
from pretrain.models import attention
from pretrain.models.vit import compile_blocks


def run(options: argparse.Namespace) -> list[Comparison]:
    """`ours` is a case's rate, `plain` the peak, `ratio` the share."""
    if not torch.cuda.is_available():
        raise UserError("no CUDA device here: run tools/benchmark.py gpu on a machine that has one")
    return measure("cuda", options.images or 64, options.pairs or 10)


def measure(device: str, images: int, repeats: int, matrix: int = 8192) -> list[Comparison]:
    results = []
    kernels = ["xformers", "sdpa"] if attention.attention_path() == "xformers" else ["sdpa"]
    for name, make in cases(device, images).items():
        for kernel in kernels:
            for compiled in (False, True):
                with attention_by(kernel):
                    results.append(measure_case(f"{name}, {kernel}", make, compiled, device, repeats, matrix))
                gc.collect()
                torch.cuda.empty_cache()
    return results


def cases(device: str, images: int) -> dict[str, Callable[[], OurStep | DetectorCase]]:
    found = {}
    for trunk, shape in SHAPES.items():
        found[f"pretraining {trunk}"] = lambda shape=shape: pretraining(shape, images, device)
        config = f"mask_rcnn_cropfield_{trunk}_12ep.py"
        found[f"detection {trunk}"] = lambda config=config: DetectorCase(config, [], False, 4, (1024, 1024), amp=True)
    return found


def pretraining(shape: dict, images: int, device: str, **sizes) -> OurStep:
    batch = {name: value.to(device) for name, value in make_batch(images).items()}
    return OurStep(make_method(shape, **sizes).to(device), batch, amp=True)


def measure_case(
    name: str, make: Callable[[], OurStep | DetectorCase], compiled: bool, device: str, repeats: int, matrix: int
) -> Comparison:
    """Rate of a case against the peak, in turns. The arithmetic is counted with SDPA, which torch's counter knows."""
    case = make()
    with attention_by("sdpa"):
        flops = count_flops(case)
    if compiled:
        compile_blocks(case.method if isinstance(case, OurStep) else case.model)
    case(), case()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rates, peaks, images = [], [], []
    for _ in range(repeats):
        peaks.append(matmul_rate(device, torch.bfloat16, matrix) / 1e12)
        seconds = synchronised(case, device)
        rates.append(flops / seconds / 1e12)
        images.append(number_of_images(case) / seconds)
    what = {"compiled": compiled, "images": number_of_images(case), "TFLOP": flops / 1e12, "dtype": "bfloat16"}
    result = Comparison.of(f"{name}, {'compiled' if compiled else 'eager'}", rates, peaks, what, unit="TFLOP/s")
    gib = torch.cuda.max_memory_allocated() / 2**30
    result.tables[result.name] = [{"images/s": sorted(images)[repeats // 2], "GiB": gib}]
    return result


def synchronised(call: Callable[[], object], device: str) -> float:
    """Seconds of one call, its kernels included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def number_of_images(case: OurStep | DetectorCase) -> int:
    return len(case.batch["index"]) if isinstance(case, OurStep) else len(case.batch)


@contextmanager
def attention_by(kernel: str) -> Iterator[None]:
    """Have `packed_attention` take "xformers" or "sdpa"."""
    with patch.object(attention, "attention_path", lambda: kernel):
        yield
