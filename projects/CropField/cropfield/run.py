"""Run a detector, or a segmentor, from a checked config to its metrics."""

import logging
import math
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.engine import default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage, JSONWriter
from detectron2.utils.logger import setup_logger

from cropfield.checkpoint import LAST, AtomicCheckpointer, last_file
from cropfield.commands import in_words
from cropfield.datasets import num_classes
from cropfield.hooks import BestCheckpointer, EarlyStopping, ModelEMA, PeriodicCheckpointer, Stoppable
from cropfield.recipe import best_metric, count_passes, dataset_categories, feature_cache, fill, precision, uses_cache
from cropfield.results import RESULT, write_result
from cropfield.trainer import DetectionTrainer
from cropfield.validation import mean_losses, validation_loader, warn_of_limits
from pretrain.data.broken import BrokenImages, summarize
from pretrain.engine.broken_images import LISTED, BrokenImagesReport, write_list
from pretrain.engine.param_groups import with_plain_options
from pretrain.engine.run import make_writers as configured_writers
from pretrain.engine.saved_config import as_yaml, warn_of_changes
from pretrain.engine.signals import StopOnSignal
from pretrain.engine.writers import PeriodicWriter
from pretrain.errors import UserError
from pretrain.files import remove_drafts, write_json, write_text
from pretrain.models.vit import compile_blocks
from pretrain.outputs import open_output

logger = logging.getLogger("detectron2")
WRITTEN = ("config.yaml", "log.txt", "metrics.json", RESULT, LISTED, "inference")
HEADLINES = {"bbox": "box AP", "segm": "mask AP", "sem_seg": "mIoU"}
# SemSegEvaluator's boundary metrics are only logged: with several classes they are differences of label indices.
SEM_SEG = ("mIoU", "fwIoU", "mACC", "pACC")


def run(cfg, args, changes: list[str], seed: int | None, states: list[dict]) -> None:
    """Run one process of a training or an evaluation.

    Args:
        args: the command line of tools/lazyconfig_train_net.py.
        changes: what a preset of a card and `fit_schedule` changed in `cfg`.
        seed: of the run to resume.
        states: see `train`.
    """
    if comm.is_main_process():
        begun = Path(cfg.train.output_dir, LAST).exists()
        written = WRITTEN if args.eval_only else (*WRITTEN, "model_*.pth")
        open_output(cfg.train.output_dir, written=() if begun else written)
        remove_drafts(Path(cfg.train.output_dir, "inference"))
    if cfg.train.get("seed", -1) < 0:  # absent in Detectron2's own configs
        cfg.train.seed = comm.shared_random_seed() if seed is None else seed
    set_up(cfg, args)
    for change in changes:
        logger.info("Adapted: %s", change)
    if "dataset" in cfg and cfg.dataset.get("train_json"):
        masks = instantiate(cfg.dataloader.train.mapper.get("use_instance_mask", False))
        kind = "with masks" if masks else "boxes only"
        logger.info("%s: %d classes, %s", cfg.dataset.train_json, num_classes(cfg.dataset.train_json, 0), kind)
    warn_of_limits(cfg)
    results = evaluate_only(cfg) if args.eval_only else train(cfg, args, states)
    if comm.is_main_process() and results:
        found = ", ".join(
            f"{name} {in_words(results[t][name.split()[-1]])}" for t, name in HEADLINES.items() if t in results
        )
        print(f"{found}: {Path(cfg.train.output_dir, RESULT)}", flush=True)


def set_up(cfg, args) -> None:
    """As Detectron2's `default_setup`; a resumed run also logs what changed in its config."""
    output, rank = cfg.train.output_dir, comm.get_rank()
    for name in ("fvcore", "detectron2", "cropfield", "pretrain"):
        setup_logger(output, rank, name=name)
    logger.info("Rank %d of %d\n%s", rank, comm.get_world_size(), collect_env_info())
    logger.info("Command line: %s\n%s:\n%s", args, args.config_file, Path(args.config_file).read_text())
    if comm.is_main_process():
        save_config(cfg, Path(output, "config.yaml"), args.resume)
    seed_all_rng(cfg.train.seed + rank)
    torch.backends.cudnn.benchmark = cfg.train.get("cudnn_benchmark", False) and not args.eval_only


def save_config(cfg, path: Path, resumed: bool) -> None:
    """Write config.yaml; if resumed, first log how it differs from the existing one."""
    try:
        text = as_yaml(cfg)
    except UserError:  # Detectron2 has logged the reason
        text = "# this config has parts that YAML cannot represent\n"
    else:
        if resumed and path.exists():
            warn_of_changes(path, text)
    write_text(path, text)


def train(cfg, args, states: list[dict]) -> dict:
    """Fine-tune, evaluate after the last iteration, and return the metrics.

    states: the state to resume from, if it has been read; it is removed from the list, because it is as large as the
    model and optimizer together.
    """
    model = instantiate(cfg.model).to(cfg.train.device)
    logger.info("Model:\n%s", model)
    cfg.optimizer.params.model = model
    optimizer = with_plain_options(instantiate(cfg.optimizer))
    accumulate = count_passes(cfg, comm.get_world_size())
    batch_size = cfg.dataloader.train.total_batch_size
    cfg.dataloader.train.total_batch_size //= accumulate
    np.random.seed(cfg.train.seed)  # a sampler may draw its own seed
    loader = instantiate(cfg.dataloader.train)
    resumed = args.resume and last_file(cfg.train.output_dir) is not None
    if cfg.train.init_checkpoint and not resumed:
        fill(cfg, model)
    elif cfg.train.get("freeze_backbone") and not resumed:
        logger.warning("the frozen backbone has random weights: give its weights as train.init_checkpoint=FILE")
    ema = ModelEMA(model, cfg.train.ema.decay) if cfg.train.get("ema", {}).get("enabled") else None
    if cfg.train.get("compile"):
        compile_blocks(model)
    parallel = create_ddp_model(model, **cfg.train.ddp)
    trainer = DetectionTrainer(parallel, loader, optimizer, accumulate, precision(cfg), cfg.train.seed, batch_size)
    average = {"ema": ema.averaged} if ema else {}
    known = dataset_categories(cfg)
    checkpointer = AtomicCheckpointer(parallel, cfg.train.output_dir, categories=known, trainer=trainer, **average)
    results = {}
    trainer.register_hooks(make_hooks(cfg, ema, checkpointer, results, hasattr(loader, "broken")))
    if resumed:
        checkpointer.resume(states.pop() if states else None)
    if uses_cache(cfg):
        feature_cache(cfg, model, loader).attach(model)
    if not hasattr(loader, "batches"):
        logger.warning("dataloader.train is not cropfield's: a resumed run reads its data from the beginning")
    try:
        trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)
    except FloatingPointError as error:
        raise not_finite(error, trainer, checkpointer) from None
    return results


def make_hooks(cfg, ema: ModelEMA | None, checkpointer: AtomicCheckpointer, results: dict, accounted: bool) -> list:
    """Hooks in order: the result of an evaluation is included in the checkpoint that follows it.

    accounted: whether the training loader counts broken images.
    """
    model = ema.averaged.module if ema else checkpointer.model
    evaluated = AtomicCheckpointer(model, cfg.train.output_dir, resumable=False, categories=checkpointer.categories)
    metric, patience, period = best_metric(cfg)
    main, periodic = comm.is_main_process(), PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer)
    stop = StopOnSignal(periodic.save_now)
    losses = validation_loader(cfg) if cfg.train.get("validation_loss") else None

    def measure() -> dict:
        results.update(evaluate(cfg, model, stop))
        return results if losses is None else results | {"validation": mean_losses(model, losses)}

    average = hooks.CallbackHook(after_train=lambda trainer: save_average(trainer, evaluated))
    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        ema,
        hooks.EvalHook(period, measure),
        BestCheckpointer(period, evaluated, metric) if main and period else None,
        EarlyStopping(metric, patience) if patience else None,
        periodic if main else None,
        BrokenImagesReport(Path(cfg.train.output_dir, LISTED), cfg.train.log_period) if accounted else None,
        average if main and ema else None,
        PeriodicWriter(make_writers(cfg), cfg.train.log_period) if main else None,
        stop,
    ]


def make_writers(cfg) -> list:
    """Those of the config; Detectron2's where another project's config names none."""
    if cfg.train.get("writers"):
        return configured_writers(cfg)
    return default_writers(cfg.train.output_dir, cfg.train.max_iter)


def save_average(trainer: DetectionTrainer, evaluated: AtomicCheckpointer) -> None:
    """Save model_ema.pth at the end of training, unless it was stopped before."""
    if trainer.iter >= trainer.max_iter:
        evaluated.save("model_ema", iteration=trainer.iter - 1)


def not_finite(error: FloatingPointError, trainer: DetectionTrainer, checkpointer: AtomicCheckpointer) -> UserError:
    """Save the weights from before the failed step, and return an error that names the images of that step."""
    name = f"model_before_{trainer.iter:07d}"
    checkpointer.save(name, iteration=trainer.iter)
    files = ", ".join(trainer.batch_files[:8])
    return UserError(
        f"{str(error).splitlines()[0]} The step was undone and {name}.pth saved. Its images: {files}. Check them, or "
        "lower optimizer.lr; --resume continues from there"
    )


def evaluate_only(cfg) -> dict:
    """Evaluate `train.init_checkpoint`; metrics.json gets a line, as after training."""
    model = instantiate(cfg.model).to(cfg.train.device).eval()
    fill(cfg, model, eval_only=True)
    results = evaluate(cfg, create_ddp_model(model))
    if comm.is_main_process():
        with EventStorage() as storage:
            storage.put_scalars(**{f"{t}/{k}": v for t, r in results.items() for k, v in r.items()})
            JSONWriter(os.path.join(cfg.train.output_dir, "metrics.json")).write()
    return results


def evaluate(cfg, model, stop: StopOnSignal | None = None) -> dict:
    """Evaluate and write result.json; returns {"bbox": {"AP": ...}, "segm": ...} or {"sem_seg": {"mIoU": ...}}.

    stop: the training's signal hook; a signal ends the evaluation after the last step, when everything is saved.
    """
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(model, Stoppable(loader, stop) if stop else loader, evaluator)
    tell_broken(loader, Path(cfg.train.output_dir, "inference", LISTED))
    if comm.is_main_process():
        print_csv_format(results)
        write_figures(cfg, results)
    return results


def tell_broken(loader, path: Path) -> None:
    """Log and list the broken images that an evaluation skipped, if its loader counts them."""
    found = [*getattr(loader, "broken", BrokenImages(0, 0.0)).reasons.items()]
    found = {name: reason for part in comm.all_gather(found) for name, reason in part}
    if found and comm.is_main_process():
        write_list(path, found)
        what = f"{len(found)} broken images were skipped; their objects count as missed"
        logger.warning("%s: %s; see %s", what, summarize(found.items()), path)


def write_figures(cfg, results: dict) -> None:
    """Write result.json atomically. Undefined values (no such object in the dataset) are null."""
    plain = {task: {k: v if math.isfinite(v) else None for k, v in r.items()} for task, r in results.items()}
    if "sem_seg" not in plain:
        write_json(Path(cfg.train.output_dir, RESULT), plain)
        return
    write_result(
        cfg.train.output_dir,
        protocol="semantic_seg",
        dataset=Path(cfg.dataset.root).resolve().name if cfg.dataset.classes else "ade20k",
        model=Path(cfg.train.init_checkpoint).stem or "untrained",
        metrics={name: value for name, value in plain["sem_seg"].items() if name in SEM_SEG or name.startswith("IoU-")},
        settings={
            "command": shlex.join(sys.argv),
            "iterations": cfg.train.max_iter,
            "lr": cfg.optimizer.lr,
            "weight_decay": cfg.optimizer.weight_decay,
            "frozen": cfg.train.freeze_backbone,
        },
    )
