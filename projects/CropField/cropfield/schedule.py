"""Schedules that fvcore lacks, layer-wise decay, scaling rules for the batch size, and gradient accumulation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from fvcore.common.param_scheduler import ParamScheduler

from pretrain.errors import UserError
from pretrain.ranges import NotNegative, Share


class PolynomialToFloor(ParamScheduler):
    """floor + (1 - floor) (1 - progress)^power: Segmenter's schedule, from 1 to `floor` times the learning rate."""

    def __init__(self, power: NotNegative = 0.9, floor: Share = 0.1):
        self.power, self.floor = power, floor

    def __call__(self, where: float) -> float:
        return self.floor + (1 - self.floor) * max(0.0, 1 - where) ** self.power


def layer_decay(depth: int, rate: float) -> Callable[[str], float]:
    """ViTDet's layer-wise decay: returns a function from parameter name to learning rate factor.

    The factor is 1 outside the backbone, rate^(depth - i) for block i of `depth` (from 0), and rate^(depth + 1) below
    the blocks.
    """
    return partial(get_vit_lr_decay_rate, num_layers=depth, lr_decay_rate=rate)


@dataclass(frozen=True)
class BatchRule:
    """Scaling rule for batches of `batch_size` images with a recipe made for `reference`.

    The number of images seen is kept: iterations x reference / batch_size. The learning rate scales with the square
    root of the batch size, which keeps AdamW's noise scale ("sqrt", the default, as in pretraining), linearly
    ("linear", Detectron2's rule, made for SGD), or not at all ("none").
    """

    batch_size: int
    reference: int
    lr_rule: str = "sqrt"

    def __post_init__(self):
        if self.lr_rule not in ("sqrt", "linear", "none"):
            raise UserError(f"train.lr_rule={self.lr_rule!r} is unknown; choose sqrt, linear or none")
        if self.batch_size < 1:
            raise UserError(f"dataloader.train.total_batch_size={self.batch_size}: a batch needs at least one image")

    def iterations(self, count: int) -> int:
        """Convert an iteration count or index to this batch size."""
        return round(count * self.reference / self.batch_size)

    def lr(self, lr: float) -> float:
        share = self.batch_size / self.reference
        return lr * {"sqrt": math.sqrt(share), "linear": share, "none": 1.0}[self.lr_rule]


def passes(batch_size: int, processes: int, images_per_gpu: int) -> int:
    """Number of accumulation passes a step so that a GPU processes `images_per_gpu` images at once; 0 is one pass.

    Raises:
        UserError: the batch is not divisible.
    """
    share, rest = divmod(batch_size, processes)
    if rest or share == 0:
        raise UserError(f"a batch of {batch_size} images does not divide among {processes} GPUs; choose a multiple")
    if not images_per_gpu:
        return 1
    if share % images_per_gpu:
        raise UserError(
            f"train.images_per_gpu={images_per_gpu} does not divide the {share} images that each of {processes} GPUs "
            f"gets of a batch of {batch_size}; choose a divisor of {share}"
        )
    return share // images_per_gpu
