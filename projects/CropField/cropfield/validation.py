"""Evaluation besides AP: validation losses, and a warning if limits on detections are too low."""

import logging
from collections import Counter

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from cropfield.datasets import most_objects
from cropfield.loading import build_test_loader

logger = logging.getLogger("detectron2")
LIMITS = (  # config keys that limit the detections in an image; COCO's and Detectron2's default is 100
    "dataloader.evaluator.max_dets_per_image",
    "model.roi_heads.box_predictor.test_topk_per_image",
)


def validation_loader(cfg):
    """Validation images with their objects, resized as in evaluation."""
    mapper = instantiate(cfg.dataloader.train.mapper)
    mapper.augmentations = instantiate(cfg.dataloader.test.mapper).augmentations
    dataset = instantiate(cfg.dataloader.test.dataset)
    return build_test_loader(dataset, mapper=mapper, num_workers=cfg.dataloader.test.num_workers)


@torch.no_grad()
def mean_losses(model: nn.Module, loader) -> dict[str, float]:
    """Mean of each training loss, and of `total_loss`, over the images of all processes.

    The backbone is in eval mode, without drop path, and so is any BatchNorm; the heads sample the same regions each
    time.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    sums, modes = Counter(), [(module, module.training) for module in model.modules()]
    model.train()
    for module in (model.backbone, *(module for module in model.modules() if isinstance(module, _BatchNorm))):
        module.eval()
    try:
        with torch.random.fork_rng(), EventStorage():  # heads log their own metrics
            torch.manual_seed(0)
            for batch in loader:
                sums.update({name: float(loss) * len(batch) for name, loss in model(batch).items()})
                sums["images"] += len(batch)
    finally:
        for module, training in modes:
            module.training = training
    everywhere = Counter()
    for part in comm.all_gather(sums):
        everywhere.update(part)  # `+` would leave out what is not above zero, NaN too
    images = everywhere.pop("images")
    means = {name: total / images for name, total in everywhere.items()}
    return means | {"total_loss": sum(means.values())}


def warn_of_limits(cfg) -> None:
    """Log a warning if a validation image has more objects than the limits on detections allow."""
    val_json = cfg.get("dataset", {}).get("val_json")
    most = most_objects(val_json) if val_json else 0
    values = {key: OmegaConf.select(cfg, key) for key in LIMITS if OmegaConf.select(cfg, key.rpartition(".")[0])}
    numbers = {k: 100 if v is None else v[-1] if OmegaConf.is_list(v) else v for k, v in values.items()}
    short = [key for key, number in numbers.items() if number < most]
    if short:
        keys = " and ".join(f"{key}={number}" for key, number in numbers.items() if key in short)
        logger.warning("%s: an image has %d objects, more than %s (100 by default)", val_json, most, keys)
