"""A student, and the teacher that follows it: what the methods have in common."""

from copy import deepcopy
from functools import cached_property

import torch
from fvcore.common.param_scheduler import ParamScheduler
from torch import Tensor, nn

from pretrain.data import pixel_statistics
from pretrain.models.vit import VisionTransformer, compile_blocks
from pretrain.models.weights import load_backbone
from pretrain.ranges import Positive, check_schedule


class StudentTeacher(nn.Module):
    """Base of the methods. The teacher is a copy of the student, takes no gradient and stays in eval mode.

    Args:
        student: modules that the teacher has too, the "backbone" among them.
        momentum: the teacher's momentum over training, from 0 to 1.
        max_iter: length of training in steps.
        init: weight file, ours or a public one, from which both backbones start; "" keeps their initial values.
        image_mean, image_std: of the pixels, for each of the backbone's bands; None: ImageNet's, for RGB.
    """

    def __init__(
        self,
        student: nn.ModuleDict,
        momentum: ParamScheduler,
        max_iter: int,
        init: str = "",
        image_mean: tuple[float, ...] | None = None,
        image_std: tuple[Positive, ...] | None = None,
    ):
        super().__init__()
        check_schedule(momentum, "model.momentum", high=1)
        if init:
            load_backbone(student["backbone"], init)
        self.momentum, self.max_iter = momentum, max_iter
        self.student = student
        self.teacher = deepcopy(student).requires_grad_(False).eval()
        mean, std = pixel_statistics(student["backbone"].in_chans, image_mean, image_std)
        self.register_buffer("image_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def train(self, mode: bool = True):
        """The teacher stays in eval mode: it never drops a path."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student; call after the optimizer's step."""
        teacher, student = self.parameter_pairs
        torch._foreach_lerp_(teacher, student, 1 - self.momentum(min(1.0, step / self.max_iter)))

    @cached_property
    def parameter_pairs(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of teacher and student; collected once, because that takes milliseconds."""
        return list(self.teacher.parameters()), list(self.student.parameters())

    def compile_parts(self) -> None:
        """Have torch compile what takes the time; call once, on the device of the training."""
        compile_blocks(self)

    @property
    def backbone(self) -> VisionTransformer:
        """The teacher's: what is exported."""
        return self.teacher["backbone"]

    def normalised(self, crops: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> pixels as the backbone takes them."""
        return (crops.float() - self.image_mean) / self.image_std
