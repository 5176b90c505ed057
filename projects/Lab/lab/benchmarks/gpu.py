"""`benchmark.py gpu`: images a second, and the fraction of the card's measured bf16 peak, on one GPU.

Pretraining of ViT-S and ViT-B, or of --backbone (--images an iteration, 64 by default), and a training iteration of
their Mask R-CNN at 1024 x 1024, in bf16 autocast: eager with xformers attention and with torch's SDPA, and compiled
(always SDPA). The peak is measured with products of two 8192 x 8192 matrices. A pretraining step is also compared with
the plain DINOv2 step, eager and in bf16. Requires a GPU.
"""

import argparse
import gc
import re
import statistics
from unittest.mock import patch

import torch

from lab.benchmarks.cases import SHAPES, Case, DetectorCase, OurStep, make_batch, make_method
from lab.benchmarks.comparison import Comparison, compare
from lab.benchmarks.flops import achieved_rate, count_flops
from lab.benchmarks.step import plain_case
from pretrain.errors import UserError
from pretrain.models import attention


def run(options: argparse.Namespace) -> list[Comparison]:
    """Results with rates: `ours` is the case's, `plain` the peak, `ratio` the fraction of the peak."""
    if not torch.cuda.is_available():
        raise UserError("no CUDA device found: run projects/Lab/tools/benchmark.py gpu on a machine with one")
    results, num_pairs = [], options.pairs or 10
    for backbone in [options.backbone] if options.backbone else SHAPES:
        config = f"mask_rcnn_cropfield_{backbone}_12ep.py"
        step = pretraining(SHAPES[backbone], options.images or 64, "cuda")
        results += measure_case(f"pretraining {backbone}", step, num_pairs)
        del step
        forget_memory()
        results += measure_case(
            f"detection {backbone}", DetectorCase(config, [], False, 4, (1024, 1024), True), num_pairs
        )
        forget_memory()
    return results


def pretraining(shape: dict, images: int, device: str, **sizes) -> OurStep:
    batch = {name: value.to(device) for name, value in make_batch(images).items()}
    return OurStep(make_method(shape, **sizes).to(device), batch, amp=True)


def measure_case(name: str, case: Case, num_pairs: int, matrix: int = 8192) -> list[Comparison]:
    """Rates of the case, eager with each kernel and compiled; operations are counted with SDPA."""
    with attention_by("sdpa"):
        flops = count_flops(case)
    results = []
    eager = ["xformers", "sdpa"] if attention.attention_path() == "xformers" else ["sdpa"]
    for kernel in [*eager, "compiled"]:
        if kernel == "compiled":
            case.compile()
        with attention_by("sdpa" if kernel == "compiled" else kernel):
            results.append(rate(f"{name}, {kernel}", case, flops, num_pairs, matrix))
            if isinstance(case, OurStep) and kernel != "sdpa":
                results.append(against_plain(f"step of {name}, {kernel}; plain", case, num_pairs))
    return results


def attention_by(kernel: str):
    """Context manager that makes `packed_attention` use "xformers" or "sdpa"."""
    return patch.object(attention, "attention_path", lambda: kernel)


def rate(name: str, case: Case, flops: int, num_pairs: int, matrix: int) -> Comparison:
    """TFLOP/s of the case and of a large matrix product, interleaved."""
    case(), case()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    what = {"images": case.num_images, "TFLOP": flops / 1e12, "dtype": "bfloat16"}
    result, seconds = achieved_rate(name, case, flops, num_pairs, matrix, "TFLOP/s", what)
    median = statistics.median(seconds)
    row = {"images/s": case.num_images / median, "GiB": gib(), "ms": median * 1e3}
    result.tables[f"{name}: and in its kernels"] = [row | milliseconds_by_kind(case)]
    return result


KINDS = {
    "attention, ms": re.compile("flash|fmha|sdpa|attention", re.IGNORECASE),
    "matmul, ms": re.compile("nvjet|gemm|cublas|splitk", re.IGNORECASE),
    "optimizer and teacher, ms": re.compile("multi_tensor_apply"),
    "other kernels, ms": re.compile(""),
}


def milliseconds_by_kind(case: Case) -> dict[str, float]:
    """Time of a call's kernels on the GPU; if their sum is less than the time of the call, the GPU waited for the
    CPU.
    """
    if case.device.type != "cuda":
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        case()
        torch.cuda.synchronize()
    spent = dict.fromkeys(KINDS, 0.0)
    for row in profiler.key_averages():
        if row.device_type == torch.autograd.DeviceType.CUDA and "#" not in row.key:  # "#" marks spans, not kernels
            kind = next(kind for kind, names in KINDS.items() if names.search(row.key))
            spent[kind] += row.self_device_time_total / 1e3
    return {"all kernels, ms": sum(spent.values())} | spent


def against_plain(name: str, step: OurStep, num_pairs: int) -> Comparison:
    """Seconds of our step and of the plain one, and memory of both."""
    plain = plain_case(step, amp=True)
    result = compare(name, step, plain, num_pairs, {"images": step.num_images, "dtype": "bfloat16"})
    added = {}
    for side, call in (("ours", step), ("plain", plain)):
        forget_memory()
        kept = torch.cuda.memory_allocated() / 2**30
        call()
        added[f"{side}, GiB"] = gib() - kept
    result.tables[f"{name}: memory beyond weights, gradients and optimizer"] = [added]
    return result


def gib() -> float:
    """Peak GPU memory since the last `forget_memory`."""
    return torch.cuda.max_memory_allocated() / 2**30


def forget_memory() -> None:
    """Release cached GPU memory and reset the peak."""
    gc.collect()
    torch.cuda.empty_cache()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
