"""Schedules as pure functions of progress (fvcore's), and the hook that sets them on the optimizer."""

import math

from detectron2.engine import HookBase
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)

from pretrain.ranges import NotNegative, Share


def scaled_lr(base_lr: float, batch_size: int) -> float:
    """Square-root rule: `base_lr * sqrt(batch_size / 1024)`, as in DINOv2."""
    return base_lr * math.sqrt(batch_size / 1024)


def warmup_cosine(peak: NotNegative, final: NotNegative, warmup: Share, start: NotNegative = 0.0) -> ParamScheduler:
    """Linear from `start` to `peak` in the first `warmup` share of training, then cosine to `final`."""
    cosine = CosineParamScheduler(peak, final)
    if warmup <= 0:
        return cosine
    return CompositeParamScheduler(
        [LinearParamScheduler(start, peak), cosine],
        lengths=[warmup, 1 - warmup],
        interval_scaling=["rescaled", "rescaled"],
    )


class OptimizerSchedule(HookBase):
    """Before each step, sets learning rate and weight decay of every parameter group from training's progress.

    Args:
        lr, weight_decay: functions of progress in [0, 1]; past the end of training they keep their last value.
        freeze_prototypes: share of training during which prototypes keep their values (one epoch in Table 6's recipe).
        head_warmup: share of training during which the backbone keeps its values, so that the gradients of heads which
            know nothing yet do not spoil weights that know something.
    """

    def __init__(
        self,
        optimizer,
        lr: ParamScheduler,
        weight_decay: ParamScheduler,
        freeze_prototypes: float = 0.0,
        head_warmup: float = 0.0,
    ):
        self.optimizer = optimizer
        self.lr, self.weight_decay = lr, weight_decay
        self.frozen_until = {"prototypes": freeze_prototypes, "backbone": head_warmup}

    def before_step(self) -> None:
        progress = min(1.0, self.trainer.iter / self.trainer.max_iter)
        lr, weight_decay = self.lr(progress), self.weight_decay(progress)
        for group in self.optimizer.param_groups:
            frozen = progress < self.frozen_until.get(group["part"], 0.0)
            group["lr"] = 0.0 if frozen else lr  # AdamW's decay is times lr: it stops too
            group["weight_decay"] = weight_decay if group["decay"] else 0.0
        self.trainer.storage.put_scalars(lr=lr, weight_decay=weight_decay, smoothing_hint=False)
