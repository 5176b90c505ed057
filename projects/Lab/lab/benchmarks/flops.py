"""Count floating point operations, and measure the rate that this machine reaches."""

from collections.abc import Callable
from inspect import unwrap

import torch
from torch.utils.benchmark import Timer, timer
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, sdpa_backward_flop, sdpa_flop

from lab.benchmarks.comparison import Comparison

UNITS = {"GFLOP/s": 1e9, "TFLOP/s": 1e12}
_LACKING = {  # CPU operators for attention and addmm that torch's own table lacks
    torch.ops.aten.addmm_: unwrap(addmm_flop),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: unwrap(sdpa_flop),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: unwrap(sdpa_backward_flop),
}


def count_flops(call: Callable[[], object]) -> int:
    """Operations of matrix products, convolutions and attention in one `call`, including backward passes."""
    with FlopCounterMode(display=False, custom_mapping=_LACKING) as counter:
        call()
    return counter.get_total_flops()


def matmul_rate(device: str, dtype: torch.dtype, side: int, clock: Callable[[], float] = timer) -> Callable[[], float]:
    """Return a function that measures the operations a second of a large matrix product: two warm-ups, then a mean of
    two.

    It keeps its matrices allocated, so that the steps in between keep their GPU memory.
    """
    a, b, product = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
    names = {"torch": torch, "a": a, "b": b, "product": product}
    threads = torch.get_num_threads()
    statement = Timer("torch.mm(a, b, out=product)", timer=clock, globals=names, num_threads=threads)
    return lambda: 2 * side**3 / statement.timeit(2).mean


def achieved_rate(
    name: str, case, flops: int, num_pairs: int, side: int, unit: str, what: dict, clock: Callable[[], float] = timer
) -> tuple[Comparison, list[float]]:
    """Rates of `case` (as `ours`) and of a `side` x `side` matrix product (as `plain`), interleaved; and the case's
    seconds.
    """
    rate, peaks, seconds = matmul_rate(case.device.type, case.dtype, side, clock), [], []
    for _ in range(num_pairs):
        peaks.append(rate() / UNITS[unit])
        start = clock()
        case()
        seconds.append(clock() - start)
    rates = [flops / spent / UNITS[unit] for spent in seconds]
    return Comparison.of(name, rates, peaks, what | {"matmul": f"{side} x {side} x {side}"}, unit), seconds
