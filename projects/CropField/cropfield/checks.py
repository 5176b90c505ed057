"""Checks of a detection run for everything that can be known to fail before the first iteration."""

import torch

from cropfield import categories
from cropfield.checkpoint import last_file, read_last
from cropfield.datasets import (
    check_can_be_evaluated,
    check_mask_format,
    check_registered,
    check_same_categories,
    has_masks,
)
from cropfield.forms import Detection
from cropfield.hooks import check_best_metric
from cropfield.recipe import best_metric, count_passes, dataset_categories, feature_cache, fill, uses_cache
from cropfield.results import RESULT
from cropfield.sizes import check_sizes
from cropfield.trial import evaluator_on_trial, try_detector
from pretrain.engine.checkpoint import resume_step
from pretrain.engine.config_values import check_config
from pretrain.engine.lazy_config import build
from pretrain.errors import UserError
from pretrain.outputs import output_path, refuse_finished

RUN = ("last_checkpoint", "model_*.pth", RESULT)  # files of a run that another must not overwrite


def check(cfg, args) -> dict | None:
    """Raise UserError for anything that can be known to fail before the first iteration; return the state to resume
    from.
    """
    check_config(cfg, Detection)
    if args.num_gpus > max(1, torch.cuda.device_count()):
        raise UserError(f"--num-gpus {args.num_gpus}: this machine has {torch.cuda.device_count()}")
    if args.eval_only:
        refuse_finished(
            output_path(cfg.train.output_dir, "train.output_dir"),
            RUN,
            "choose another train.output_dir for the evaluation",
        )
    elif not getattr(args, "resume", False):  # absent when only a config is checked
        advice = "add --resume to go on with it, or choose another train.output_dir"
        refuse_finished(output_path(cfg.train.output_dir, "train.output_dir"), RUN, advice)
    if args.eval_only and not cfg.train.init_checkpoint:
        raise UserError("--eval-only needs weights; add train.init_checkpoint=FILE")
    for part in ("test",) if args.eval_only else ("train", "test"):
        check_registered(build(cfg, f"dataloader.{part}.dataset.names"))
    if "dataset" in cfg and cfg.dataset.get("train_json") and cfg.dataset.val_json:
        check_same_categories(cfg.dataset.train_json, cfg.dataset.val_json)
        check_can_be_evaluated(cfg.dataset.val_json)
        if (
            cfg.train.get("validation_loss")
            and has_masks(cfg.dataset.train_json)
            and not has_masks(cfg.dataset.val_json)
        ):
            raise UserError(f"{cfg.dataset.val_json} has no masks to compare with; leave train.validation_loss False")
    if not args.eval_only and "dataset" in cfg and cfg.dataset.get("train_json"):
        mapper = cfg.dataloader.train.get("mapper") or {}
        check_mask_format(cfg.dataset.train_json, mapper.get("instance_mask_format", "bitmask"))
    if not args.eval_only:
        count_passes(cfg, args.num_gpus * args.num_machines)
    model, known = try_detector(cfg, args.eval_only), dataset_categories(cfg, args.eval_only)
    if not args.eval_only:
        with evaluator_on_trial(cfg) as evaluator:
            check_best_metric(*best_metric(cfg), cfg.train.max_iter, evaluator, categories.names_of(known or []))
        if cfg.train.get("validation_loss"):  # which is that of training, with the images of evaluation
            mapper = build(cfg, "dataloader.test.mapper")
            check_sizes(model.train(), mapper.augmentations, "train.validation_loss: dataloader.test.mapper")
    check_classes(cfg, model, known)
    resume = getattr(args, "resume", False) and not args.eval_only
    state = check_resume(cfg, model, known) if resume else None
    if cfg.train.init_checkpoint and state is None:
        fill(cfg, model, args.eval_only)
    if not args.eval_only and uses_cache(cfg):
        cache = feature_cache(cfg, model, build(cfg, "dataloader.train"))
        if cfg.train.init_checkpoint:  # otherwise the weights, and so the cache, are not yet known
            cache.check_disk()
    return state


def check_resume(cfg, model, known: list[dict] | None) -> dict | None:
    """The last checkpoint's content, or None.

    Raises UserError if it belongs to another model or other classes, or no iterations are left.
    """
    parts = ("trainer", "ema") if cfg.train.get("ema", {}).get("enabled") else ("trainer",)
    state = read_last(cfg.train.output_dir, model, parts)
    if state is not None:
        path = last_file(cfg.train.output_dir)
        categories.check_same_order(path, categories.in_metadata(state.get("metadata"), path), known)
        done, saved = state["trainer"]["iteration"] + 1, state["trainer"].get("batch_size")
        resume_step(path, done, saved, cfg.dataloader.train.total_batch_size, cfg.train.max_iter)
    return state


def check_classes(cfg, model, known: list[dict] | None) -> None:
    """Raise UserError if the detector's number of classes differs from the dataset's."""
    head = "model.roi_heads" if hasattr(model, "roi_heads") else "model"
    number = getattr(getattr(model, "roi_heads", model), "num_classes", None)
    if known and number not in (None, len(known)):
        names = ", ".join(categories.names_of(known)[:20])
        raise UserError(
            f"the detector has {number} classes and its dataset {len(known)} ({names}): "
            f"remove the override of {head}.num_classes, or give the matching dataset"
        )
