"""Communication between the processes of a run; with one process each function is the identity."""

import torch
import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    """Processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if num_ranks() > 1 else 0


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum of every rank's `values`, the same bits on all of them; overwrites and returns its argument."""
    if num_ranks() > 1:
        dist.all_reduce(values)
    return values


@torch.no_grad()
def logsumexp_over_ranks(values: Tensor) -> Tensor:
    """Elementwise log of the sum of every rank's exp(values); -inf stands for a rank that has nothing to add."""
    if num_ranks() == 1:
        return values
    largest = values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    largest = largest.clamp(min=torch.finfo(values.dtype).min)  # where all are -inf, -inf less -inf would be NaN
    return sum_over_ranks((values - largest).exp()).log() + largest


def gather(rows: Tensor) -> Tensor:
    """Every rank's rows (n, D), in the order of ranks -> (ranks * n, D).

    Gradients return to their rows: each rank's backward pass gets the sum of what all ranks' losses ask of its rows.
    All ranks need the same n, and all must run the backward pass.
    """
    return _Gather.apply(rows) if num_ranks() > 1 else rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(num_ranks())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        # A copy: autograd may share this gradient with others. Gloo cannot scatter what it reduces.
        return sum_over_ranks(grad.clone(memory_format=torch.contiguous_format)).chunk(num_ranks())[rank()]
