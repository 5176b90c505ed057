"""Schedules that fvcore lacks; layer-wise decay; what another batch size does; how a batch is cut into passes."""

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
    """ViTDet's layer-wise decay: parameter name -> factor of the learning rate.

    1 for all but the backbone, rate^(depth - i) for block i of `depth`, counted from 0, rate^(depth + 1) below them.
    """
    return partial(get_vit_lr_decay_rate, num_layers=depth, lr_decay_rate=rate)


@dataclass(frozen=True)
class BatchRule:
    """The rule for batches of `batch_size` images where the recipe has `reference`.

    As many images are seen: iterations x reference / batch_size. The learning rate goes with the square root of the
    batch size, which keeps AdamW's noise as it was ("sqrt", the default and what pretraining does), in proportion
    ("linear", Detectron2's rule, made for SGD), or stays ("none").
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
        """A number of iterations, or an iteration's number, at this batch size."""
        return round(count * self.reference / self.batch_size)

    def lr(self, lr: float) -> float:
        share = self.batch_size / self.reference
        return lr * {"sqrt": math.sqrt(share), "linear": share, "none": 1.0}[self.lr_rule]


def passes(batch_size: int, processes: int, images_per_gpu: int) -> int:
    """Passes a step so that a GPU holds `images_per_gpu` images at once; 0 is its whole share of the batch.

    Raises:
        UserError: the batch does not divide.
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
