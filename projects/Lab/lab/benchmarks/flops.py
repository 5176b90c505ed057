"""Floating point operations of what runs, and the rate at which this machine can do them."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def count_flops(call: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attention in one `call`, backward passes included."""
    counter = FlopCounterMode(display=False, custom_mapping=_ON_THE_CPU)
    with counter:
        call()
    return counter.get_total_flops()


def matmul_rate(
    device: str, dtype: torch.dtype, side: int = 2048, clock: Callable[[], float] | None = None
) -> Callable[[], float]:
    """A function that measures one large matrix product, after a warm-up: operations a second.

    It keeps its matrices: to make them anew between steps would cost the steps their place in a GPU's memory.
    """
    clock = clock or time.perf_counter
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)

    def measure() -> float:
        seconds = []
        for _ in range(4):
            start = clock()
            torch.mm(a, b, out=product)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(clock() - start)
        return 2 * side**3 / min(seconds[1:])

    return measure


def _in_place_product(total, a, b, out_shape=None, **_) -> int:
    return 2 * a[0] * a[1] * b[1]


def _attention(query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


_ON_THE_CPU = {  # what torch's own table lacks
    aten.addmm_: _in_place_product,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
