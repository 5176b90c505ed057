"""The teacher as an exponential moving average of the student."""

import torch
from torch import Tensor


@torch.no_grad()
def update_teacher(teacher: list[Tensor], student: list[Tensor], momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, all parameters in a few fused operations."""
    torch._foreach_lerp_(teacher, student, 1 - momentum)
