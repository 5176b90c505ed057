#!/usr/bin/env python3
"""Fine-tune and evaluate a detector, or a semantic segmentor, described by a LazyConfig file.

    tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_cropfield_tiny.py \
        train.init_checkpoint=backbone.safetensors train.output_dir=outputs/detector \
        dataset.train_json=T.json dataset.train_images=T/ dataset.val_json=V.json dataset.val_images=V/

The configs also work with the tool of the same name that Detectron2 ships. This one checks overrides, data and weights
before any work, reports how a backbone file matched, and writes the result to OUTPUT/result.json. It fits the schedule
to the batch size, adds up gradients over several passes, keeps the best weights, averages them, stops early, compiles
the backbone and writes to Weights & Biases, each by a key of `train` (configs/common/detection.py). --card 8 fits
an 8 GB card.
"""

import logging
import math
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_argument_parser, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage, JSONWriter
from detectron2.utils.logger import setup_logger
from omegaconf import OmegaConf

from cropfield import categories
from cropfield.checkpoint import AtomicCheckpointer, last_file, read_last
from cropfield.datasets import (
    check_can_be_evaluated,
    check_registered,
    check_same_categories,
    num_classes,
)
from cropfield.feature_cache import FeatureCache
from cropfield.forms import Detection
from cropfield.hooks import (
    BestCheckpointer,
    EarlyStopping,
    ModelEMA,
    PeriodicCheckpointer,
    Stoppable,
    check_best_metric,
)
from cropfield.results import RESULT, write_result
from cropfield.schedule import BatchRule, passes
from cropfield.trainer import DetectionTrainer
from cropfield.trial import try_detector
from cropfield.weights import load_weights
from pretrain.data.broken import BrokenImages, summarize
from pretrain.engine.broken_images import LISTED, BrokenImagesReport, write_list
from pretrain.engine.checkpoint import start_of
from pretrain.engine.config_values import check_config
from pretrain.engine.cpu_memory import tune_cpu_memory
from pretrain.engine.distributed import start
from pretrain.engine.lazy_config import build, load_config
from pretrain.engine.saved_config import as_yaml, warn_of_changes
from pretrain.engine.signals import StopOnSignal
from pretrain.engine.writers import PeriodicWriter, mirror_to_wandb
from pretrain.errors import UserError, run_main
from pretrain.files import remove_drafts, write_json, write_text
from pretrain.models.vit import compile_blocks
from pretrain.outputs import open_output, output_path, refuse_finished

logger = logging.getLogger("detectron2")
PRESETS = Path(__file__).resolve().parents[1] / "configs" / "common" / "detection_presets.py"
RUN = ("last_checkpoint", "model_*.pth", RESULT)  # what a run leaves that another must not replace
HEADLINES = {"bbox": "box AP", "segm": "mask AP", "sem_seg": "mIoU"}
# SemSegEvaluator's boundary figures stay in the log: with several classes they are differences of labels.
SEM_SEG = ("mIoU", "fwIoU", "mACC", "pACC")


def read_config(args):
    """The config with the card's preset, then the overrides by hand, then the schedule that fits the batch size."""
    preset = LazyConfig.load(str(PRESETS), "PRESETS")[args.card] if args.card else ()
    cfg = load_config(args.config_file, [*preset, *args.opts], Detection)
    return cfg, [*preset, *fit_schedule(cfg, args.opts)]


def fit_schedule(cfg, overrides: list[str]) -> list[str]:
    """Rescale what is counted in iterations, and the learning rate, to the batch size; what was given by hand stays.

    Returns:
        what was changed, in words.
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
    if "milestones" in steps:  # shares of num_updates, so nothing but their print changes
        steps.milestones = [rule.iterations(milestone) for milestone in steps.milestones]
        steps.num_updates = rule.iterations(steps.num_updates)
        changes.append(f"decays at {', '.join(map(str, steps.milestones))} of {steps.num_updates}")
    return [f"batch of {size} instead of {reference} images (train.lr_rule {rule.lr_rule}): {'; '.join(changes)}"]


def check(cfg, args) -> dict | None:
    """Everything that can be known to fail before the first iteration, as a UserError; the state to resume from."""
    check_config(cfg, Detection)
    if args.num_gpus > max(1, torch.cuda.device_count()):
        raise UserError(f"--num-gpus {args.num_gpus}: this machine has {torch.cuda.device_count()}")
    if args.eval_only:
        refuse_finished(output_path(cfg.train.output_dir), RUN, "choose another train.output_dir for the evaluation")
    elif not getattr(args, "resume", False):  # who only checks a config need not say
        advice = "add --resume to go on with it, or choose another train.output_dir"
        refuse_finished(output_path(cfg.train.output_dir), RUN, advice)
    if args.eval_only and not cfg.train.init_checkpoint:
        raise UserError("--eval-only needs weights; add train.init_checkpoint=FILE")
    for part in ("test",) if args.eval_only else ("train", "test"):
        check_registered(build(cfg, f"dataloader.{part}.dataset.names"))
    if "dataset" in cfg and cfg.dataset.get("train_json") and cfg.dataset.val_json:
        check_same_categories(cfg.dataset.train_json, cfg.dataset.val_json)
        check_can_be_evaluated(cfg.dataset.val_json)
    if not args.eval_only:
        count_passes(cfg, args.num_gpus * args.num_machines)
    model, known = try_detector(cfg, args.eval_only), dataset_categories(cfg, args.eval_only)
    if not args.eval_only:
        evaluator = build(cfg, "dataloader.evaluator")
        check_best_metric(*best_metric(cfg), cfg.train.max_iter, evaluator, categories.names_of(known or []))
    check_classes(cfg, model, known)
    resume = getattr(args, "resume", False) and not args.eval_only
    state = check_resume(cfg, model, known) if resume else None
    if cfg.train.init_checkpoint:
        fill(cfg, model, args.eval_only)
    if not args.eval_only and uses_cache(cfg):
        cache = feature_cache(cfg, model, build(cfg, "dataloader.train"))
        if cfg.train.init_checkpoint:  # without, the weights and so the cache are known later
            cache.check_disk()
    return state


def uses_cache(cfg) -> bool:
    return bool(cfg.dataloader.get("feature_cache", {}).get("folder"))


def feature_cache(cfg, model, loader) -> FeatureCache:
    still = instantiate(cfg.dataloader.test.mapper).augmentations
    return FeatureCache(model, loader, still=still, precision=precision(cfg), **cfg.dataloader.feature_cache)


def precision(cfg) -> torch.dtype | None:
    """The autocast type of training."""
    return getattr(torch, cfg.train.amp.get("dtype", "float16")) if cfg.train.amp.enabled else None


def dataset_categories(cfg, eval_only: bool = False) -> list[dict] | None:
    """The classes of the detector's outputs: those of the dataset that is trained or evaluated on."""
    names = instantiate(cfg.dataloader["test" if eval_only else "train"].dataset.names)
    return categories.of_dataset(names if isinstance(names, str) else names[0])


def check_resume(cfg, model, known: list[dict] | None) -> dict | None:
    """The last checkpoint's content, or None.

    Raises UserError where it is not of this model and these classes, or leaves nothing to do.
    """
    parts = ("trainer", "ema") if cfg.train.get("ema", {}).get("enabled") else ("trainer",)
    state = read_last(cfg.train.output_dir, model, parts)
    if state is not None:
        path = last_file(cfg.train.output_dir)
        categories.check_same_order(path, categories.in_metadata(state.get("metadata"), path), known)
        done, saved = state["trainer"]["iteration"] + 1, state["trainer"].get("batch_size")
        start_of(path, done, saved, cfg.dataloader.train.total_batch_size, cfg.train.max_iter)
    return state


def check_classes(cfg, model, known: list[dict] | None) -> None:
    """Raise UserError where the detector has another number of classes than the dataset."""
    number = getattr(getattr(model, "roi_heads", model), "num_classes", None)
    if known and number not in (None, len(known)):
        names = ", ".join(categories.names_of(known)[:20])
        raise UserError(
            f"the detector has {number} classes and its dataset {len(known)} ({names}): "
            "leave num_classes to the config, or give the dataset that it is for"
        )


def fill(cfg, model, eval_only: bool = False) -> None:
    """Load `train.init_checkpoint`."""
    partial = not eval_only and cfg.train.get("init_partial", False)
    load_weights(model, cfg.train.init_checkpoint, partial, dataset_categories(cfg, eval_only), whole=eval_only)


def count_passes(cfg, processes: int) -> int:
    return passes(cfg.dataloader.train.total_batch_size, processes, cfg.train.get("images_per_gpu", 0))


def evaluate(cfg, model, stop: StopOnSignal | None = None) -> dict:
    """Metrics by task, {"bbox": {"AP": ...}, "segm": ...} or {"sem_seg": {"mIoU": ...}}; also into result.json.

    stop: of the training that this belongs to. After its last step, when all is saved, a signal ends the evaluation.
    """
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(model, Stoppable(loader, stop) if stop else loader, evaluator)
    tell_broken(loader, Path(cfg.train.output_dir, "inference", LISTED))
    if comm.is_main_process():
        print_csv_format(results)
        write_figures(cfg, results)
    return results


def tell_broken(loader, path: Path) -> None:
    """Log and list the images that an evaluation had to leave out, if its loader keeps an account of them."""
    found = [*getattr(loader, "broken", BrokenImages(0, 0.0)).reasons.items()]
    found = {name: reason for part in comm.all_gather(found) for name, reason in part}
    if found and comm.is_main_process():
        write_list(path, found)
        what = f"{len(found)} broken images were left out, and what they show counts as not found"
        logger.warning("%s: %s; see %s", what, summarize(found.items()), path)


def write_figures(cfg, results: dict) -> None:
    """result.json, replaced as a whole. What cannot be measured (no such object in the dataset) is null."""
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


def train(cfg, args, states: list[dict]) -> dict:
    """Fine-tune, evaluate after the last iteration, return that evaluation.

    states: the one to resume from, where it has been read, which is taken out: it is as large as the training's own.
    """
    model = instantiate(cfg.model).to(cfg.train.device)
    logger.info("Model:\n%s", model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    accumulate = count_passes(cfg, comm.get_world_size())
    batch_size = cfg.dataloader.train.total_batch_size
    cfg.dataloader.train.total_batch_size //= accumulate
    np.random.seed(cfg.train.seed)  # a sampler may draw its own seed
    loader = instantiate(cfg.dataloader.train)
    resumed = args.resume and last_file(cfg.train.output_dir) is not None
    if cfg.train.init_checkpoint and not resumed:
        fill(cfg, model)
    elif cfg.train.get("freeze_backbone") and not resumed:
        logger.warning("the frozen backbone is a random one: give its weights as train.init_checkpoint=FILE")
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
        logger.warning("dataloader.train is not cropfield's: a resumed training sees its data from the beginning")
    try:
        trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)
    except FloatingPointError as error:
        raise not_finite(error, trainer, checkpointer) from None
    return results


def best_metric(cfg) -> tuple[str, int, int]:
    """The figure that tells the best weights, evaluations to wait for a better one, iterations between them."""
    patience = cfg.train.get("early_stopping", {}).get("patience", 0)
    return cfg.train.get("best_metric", "bbox/AP"), patience, cfg.train.eval_period


def make_hooks(cfg, ema: ModelEMA | None, checkpointer: AtomicCheckpointer, results: dict, accounted: bool) -> list:
    """In order: what an evaluation decides is in the checkpoint that follows it.

    accounted: whether the training's loader keeps an account of broken images.
    """
    model = ema.averaged.module if ema else checkpointer.model
    evaluated = AtomicCheckpointer(model, cfg.train.output_dir, resumable=False, categories=checkpointer.categories)
    metric, patience, period = best_metric(cfg)
    main, periodic = comm.is_main_process(), PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer)
    stop = StopOnSignal(periodic.stop)
    average = hooks.CallbackHook(after_train=lambda trainer: save_average(trainer, evaluated))
    return [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        ema,
        hooks.EvalHook(period, lambda: results.update(evaluate(cfg, model, stop)) or results),
        BestCheckpointer(period, evaluated, metric) if main and period else None,
        EarlyStopping(metric, patience) if patience else None,
        periodic if main else None,
        BrokenImagesReport(Path(cfg.train.output_dir, LISTED), cfg.train.log_period) if accounted else None,
        average if main and ema else None,
        PeriodicWriter(make_writers(cfg), cfg.train.log_period) if main else None,
        stop,
    ]


def save_average(trainer: DetectionTrainer, evaluated: AtomicCheckpointer) -> None:
    """model_ema.pth, of a training that has come to its end."""
    if trainer.iter >= trainer.max_iter:
        evaluated.save("model_ema", iteration=trainer.iter - 1)


def make_writers(cfg) -> list:
    wandb = cfg.train.get("wandb", {})
    if wandb.get("enabled"):
        mirror_to_wandb(project=wandb.project, name=wandb.name, dir=cfg.train.output_dir)
    return default_writers(cfg.train.output_dir, cfg.train.max_iter)


def not_finite(error: FloatingPointError, trainer: DetectionTrainer, checkpointer: AtomicCheckpointer) -> UserError:
    """Keep the weights, which are still those before the bad step, and name the images of that step."""
    name = f"model_before_{trainer.iter:07d}"
    checkpointer.save(name, iteration=trainer.iter)
    files = ", ".join(trainer.batch_files[:8])
    return UserError(
        f"{str(error).splitlines()[0]} The step is undone and {name}.pth saved. Its images: {files}. Look at them, or "
        "lower optimizer.lr; --resume goes on from there"
    )


def evaluate_only(cfg) -> dict:
    """Evaluate `train.init_checkpoint`; metrics.json gets a line as after training."""
    model = instantiate(cfg.model).to(cfg.train.device).eval()
    fill(cfg, model, eval_only=True)
    results = evaluate(cfg, create_ddp_model(model))
    if comm.is_main_process():
        with EventStorage() as storage:
            storage.put_scalars(**{f"{t}/{k}": v for t, r in results.items() for k, v in r.items()})
            JSONWriter(os.path.join(cfg.train.output_dir, "metrics.json")).write()
    return results


def set_up(cfg, args) -> None:
    """Detectron2's `default_setup`; it also says what a resumed run has changed."""
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
    """Write config.yaml; first, for a resumed run, log in what it differs from the one that is there."""
    try:
        text = as_yaml(cfg)
    except UserError:  # Detectron2 has said why
        text = "# this config has parts that YAML cannot hold\n"
    else:
        if resumed and path.exists():
            warn_of_changes(path, text)
    write_text(path, text)


def run(args, seed: int | None, states: list[dict]) -> None:
    """One process of the run.

    seed: of the run that goes on.  states: see `train`.
    """
    cfg, changes = read_config(args)
    if comm.is_main_process():
        open_output(cfg.train.output_dir)
        remove_drafts(Path(cfg.train.output_dir, "inference"))
    if cfg.train.seed < 0:
        cfg.train.seed = comm.shared_random_seed() if seed is None else seed
    set_up(cfg, args)
    for change in changes:
        logger.info("By rule: %s", change)
    if "dataset" in cfg and cfg.dataset.get("train_json"):
        masks = instantiate(cfg.dataloader.train.mapper.get("use_instance_mask", False))
        kind = "with masks" if masks else "boxes only"
        logger.info("%s: %d classes, %s", cfg.dataset.train_json, num_classes(cfg.dataset.train_json, 0), kind)
    results = evaluate_only(cfg) if args.eval_only else train(cfg, args, states)
    if comm.is_main_process() and results:
        found = ", ".join(f"{name} {results[t][name.split()[-1]]:.2f}" for t, name in HEADLINES.items() if t in results)
        print(f"{found}: {Path(cfg.train.output_dir, RESULT)}", flush=True)


def main() -> None:
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--card", type=int, choices=(8, 16, 24), help="fit a graphics card of so many GB")
    args = parser.parse_args()
    cfg = read_config(args)[0]
    if cfg.train.device == "cpu":
        tune_cpu_memory()
    states = [state for state in [check(cfg, args)] if state]
    seed = states[0]["trainer"].get("seed") if states else None
    if args.num_gpus * args.num_machines > 1:  # other processes read it themselves
        states.clear()
    start(run, (args, seed, states), args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)


if __name__ == "__main__":
    run_main(main)
