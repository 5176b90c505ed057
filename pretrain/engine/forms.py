"""Keys, types and ranges of a pretraining config outside its calls, for `pretrain.engine.config_values`.

configs/common/pretraining.py explains the keys.
"""

from typing import Annotated, Required, TypedDict

from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter

from pretrain.ranges import Count, NotNegative, Positive, Range, Seed, Share, Whole

MaxIter = Annotated[int, Range(1, 10**10)]


class Amp(TypedDict):
    enabled: bool


class Checkpointer(TypedDict, total=False):
    period: Required[Count]
    keep_period: Whole


class Wandb(TypedDict):
    enabled: bool
    project: str
    name: str | None


class Train(TypedDict):
    output_dir: str
    epochs: Positive
    max_iter: MaxIter | None
    base_lr: Positive
    freeze_prototypes: Share
    head_warmup: Share
    clip_grad: NotNegative
    accumulate: Count
    compile: bool
    seed: Seed
    device: str
    amp: Amp
    log_period: Count
    checkpointer: Checkpointer
    hooks: list[HookBase | None]
    wandb: Wandb
    writers: list[EventWriter]


class Loaders(TypedDict):
    train: dict


class Optimizer(TypedDict, total=False):
    lr: Positive | None


class Pretraining(TypedDict):
    """configs/pretrain, and what starts from configs/common/pretraining.py."""

    model: dict
    dataloader: Loaders
    optimizer: Optimizer
    lr_multiplier: dict
    weight_decay: dict
    train: Train
