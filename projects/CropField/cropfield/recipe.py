"""Derived settings of a detection run: schedule, precision, weights, classes, feature cache."""

from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cropfield import categories
from cropfield.feature_cache import FeatureCache
from cropfield.schedule import BatchRule, passes
from cropfield.weights import load_weights
from pretrain.engine.devices import check_usable
from pretrain.engine.lazy_config import build, load_config
from pretrain.errors import UserError


def detector_config(path: str | Path, overrides: list[str]) -> DictConfig:
    """`load_config` of a detector. Raises UserError where it is another's."""
    cfg = load_config(path, overrides)
    if "test" not in cfg.get("dataloader", {}) or "model" not in cfg:
        raise UserError(f"{path} is no detector's config; give one, such as those in configs/COCO")
    return cfg


def build_detector(cfg: DictConfig) -> nn.Module:
    """The config's model on its device, in eval mode. Raises UserError."""
    check_usable(cfg.train.device)
    return build(cfg, "model").to(cfg.train.device).eval()


def fit_schedule(cfg, overrides: list[str]) -> list[str]:
    """Adapt the iteration counts and the learning rate to the batch size; values that the user overrides are kept.

    Returns:
        Descriptions of the changes.
    """
    reference = cfg.train.get("reference_batch_size")
    size = cfg.dataloader.train.total_batch_size
    if not reference or size == reference:
        return []
    rule = BatchRule(size, reference, cfg.train.lr_rule)
    given = {override.partition("=")[0] for override in overrides}
    changes = []
    for key in ("train.max_iter", "train.eval_period", "train.checkpointer.period", "optimizer.lr"):
        if key not in given:
            old = OmegaConf.select(cfg, key)
            OmegaConf.update(
                cfg, key, rule.lr(old) if key == "optimizer.lr" else max(rule.iterations(old), min(old, 1))
            )
            changes.append(f"{key} {old:g} -> {OmegaConf.select(cfg, key):g}")
    steps = cfg.lr_multiplier.get("scheduler", {})
    if "milestones" in steps:  # relative to num_updates: only the logged values change
        steps.milestones = [rule.iterations(milestone) for milestone in steps.milestones]
        steps.num_updates = rule.iterations(steps.num_updates)
        changes.append(f"decays at {', '.join(map(str, steps.milestones))} of {steps.num_updates}")
    return [f"batch of {size} instead of {reference} images (train.lr_rule {rule.lr_rule}): {'; '.join(changes)}"]


def count_passes(cfg, processes: int) -> int:
    return passes(cfg.dataloader.train.total_batch_size, processes, cfg.train.get("images_per_gpu", 0))


def precision(cfg) -> torch.dtype | None:
    """Autocast dtype for training, or None."""
    amp = cfg.train.amp
    if torch.device(cfg.train.device).type == "cpu" and amp.get("cpu", False):
        return torch.bfloat16
    return getattr(torch, amp.get("dtype", "float16")) if amp.enabled else None


def best_metric(cfg) -> tuple[str, int, int]:
    """Metric that selects the best weights, patience in evaluations, and iterations between evaluations."""
    patience = cfg.train.get("early_stopping", {}).get("patience", 0)
    return cfg.train.get("best_metric", "bbox/AP"), patience, cfg.train.eval_period


def dataset_categories(cfg, eval_only: bool = False) -> list[dict] | None:
    """Classes of the detector's outputs, from the dataset for training or evaluation."""
    names = instantiate(cfg.dataloader["test" if eval_only else "train"].dataset.names)
    return categories.of_dataset(names if isinstance(names, str) else names[0])


def fill(cfg, model, eval_only: bool = False) -> None:
    """Load `train.init_checkpoint`, and name it in any UserError."""
    partial = not eval_only and cfg.train.get("init_partial", False)
    try:
        load_weights(model, cfg.train.init_checkpoint, partial, dataset_categories(cfg, eval_only), whole=eval_only)
    except UserError as error:
        raise UserError(f"train.init_checkpoint: {error}") from error


def uses_cache(cfg) -> bool:
    return bool(cfg.dataloader.get("feature_cache", {}).get("folder"))


def feature_cache(cfg, model, loader) -> FeatureCache:
    still = instantiate(cfg.dataloader.test.mapper).augmentations
    return FeatureCache(model, loader, still=still, precision=precision(cfg), **cfg.dataloader.feature_cache)
