"""Keys, types and ranges of a detection config outside its `LazyCall`s; configs/common/detection.py documents them.

Detectron2's own keys are required, this project's are optional.
"""

from typing import Annotated, Literal, Required, TypedDict

from detectron2.utils.events import EventWriter

from pretrain.engine.forms import Amp, MaxIter, Wandb
from pretrain.ranges import BatchSize, Count, Pixels, Positive, Range, ShareBelowOne, Whole


class Precision(Amp, total=False):
    dtype: Literal["bfloat16", "float16"]
    cpu: bool


class Checkpointer(TypedDict, total=False):
    period: Required[Count]
    max_to_keep: Count | None


class Ema(TypedDict):
    enabled: bool
    decay: ShareBelowOne


class EarlyStopping(TypedDict):
    patience: Whole


class Train(TypedDict, total=False):
    output_dir: Required[str]
    init_checkpoint: Required[str]
    max_iter: Required[MaxIter]
    amp: Required[Precision]
    ddp: Required[dict]
    checkpointer: Required[Checkpointer]
    eval_period: Required[Whole]
    log_period: Required[Count]
    device: Required[str]
    seed: Annotated[int, Range(-(2**31), 2**32 - 1)]  # negative: a random one for each run
    cudnn_benchmark: bool
    float32_precision: str
    freeze_backbone: bool
    init_partial: bool
    reference_batch_size: Whole
    lr_rule: str
    images_per_gpu: Whole
    compile: bool
    ema: Ema
    best_metric: str
    validation_loss: bool
    early_stopping: EarlyStopping
    wandb: Wandb
    writers: list[EventWriter]


class TrainLoader(TypedDict, total=False):
    total_batch_size: Required[BatchSize]


class FeatureCache(TypedDict, total=False):
    folder: str
    augmentations: Whole
    dtype: Literal["bfloat16", "float32"]


class Loaders(TypedDict, total=False):
    train: Required[TrainLoader]
    test: Required[dict]
    evaluator: Required[dict]
    image_size: Pixels
    feature_cache: FeatureCache


class Optimizer(TypedDict, total=False):
    lr: Positive


class Detection(TypedDict, total=False):
    """Configs of configs/COCO, and any based on configs/common/detection.py or Detectron2's own LazyConfig files."""

    model: Required[dict]
    dataloader: Required[Loaders]
    optimizer: Required[Optimizer]
    lr_multiplier: Required[dict]
    train: Required[Train]
    dataset: dict
