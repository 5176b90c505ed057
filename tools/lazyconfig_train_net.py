#!/usr/bin/env python3
"""Fine-tune and evaluate a detector described by a LazyConfig file.

    tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_cropfield_tiny.py \
        train.init_checkpoint=backbone.safetensors train.output_dir=outputs/detector \
        dataset.train_json=T.json dataset.train_images=T/ dataset.val_json=V.json dataset.val_images=V/

The configs also work with the tool of the same name that Detectron2 ships. This one checks overrides, data and weights
before any work, reports how a backbone file matched, and writes the result to OUTPUT/result.json.
"""

import logging
import math
import os
from pathlib import Path

import torch
from cropfield.datasets import check_registered, check_same_categories
from cropfield.weights import load_weights
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, JSONWriter
from detectron2.utils.logger import setup_logger

from pretrain.engine.lazy_config import load_config
from pretrain.errors import UserError, run_main
from pretrain.files import write_json

logger = logging.getLogger("detectron2")


def check(cfg, args) -> None:
    """Everything that can be known to fail before the first iteration, as a UserError."""
    if args.num_gpus > max(1, torch.cuda.device_count()):
        raise UserError(f"--num-gpus {args.num_gpus}: this machine has {torch.cuda.device_count()}")
    if args.eval_only and not cfg.train.init_checkpoint:
        raise UserError("--eval-only needs weights; add train.init_checkpoint=FILE")
    for part in ("test",) if args.eval_only else ("train", "test"):
        check_registered(instantiate(cfg.dataloader[part].dataset.names))
    if "dataset" in cfg and cfg.dataset.train_json and cfg.dataset.val_json:
        check_same_categories(cfg.dataset.train_json, cfg.dataset.val_json)
    if cfg.train.init_checkpoint:
        load_weights(instantiate(cfg.model), cfg.train.init_checkpoint, cfg.train.get("init_partial", False))


def evaluate(cfg, model) -> dict:
    """COCO metrics by task, {"bbox": {"AP": ...}, "segm": ...}; also into OUTPUT/result.json."""
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
        write_result(cfg.train.output_dir, results)
    return results


def write_result(output_dir: str, results: dict) -> None:
    """result.json, replaced as a whole. What COCO cannot measure (no such object) is null."""
    plain = {task: {k: v if math.isfinite(v) else None for k, v in r.items()} for task, r in results.items()}
    write_json(Path(output_dir, "result.json"), plain)


def train(cfg, args) -> dict:
    """Fine-tune, evaluate after the last iteration, return that evaluation."""
    model = instantiate(cfg.model).to(cfg.train.device)
    logger.info("Model:\n%s", model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    resumed = args.resume and DetectionCheckpointer(model, cfg.train.output_dir).has_checkpoint()
    if cfg.train.init_checkpoint and not resumed:
        load_weights(model, cfg.train.init_checkpoint, cfg.train.get("init_partial", False))
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = (AMPTrainer if cfg.train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    results = {}
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if comm.is_main_process() else None,
            hooks.EvalHook(cfg.train.eval_period, lambda: results.update(evaluate(cfg, model)) or results),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter), cfg.train.log_period)
            if comm.is_main_process()
            else None,
        ]
    )
    checkpointer.resume_or_load("", resume=args.resume)
    try:
        trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)
    except FloatingPointError as error:
        raise UserError(f"{str(error).splitlines()[0]} Lower optimizer.lr, or look at the data.") from None
    return results


def evaluate_only(cfg) -> dict:
    """Evaluate `train.init_checkpoint`; metrics.json gets a line as after training."""
    model = instantiate(cfg.model).to(cfg.train.device).eval()
    load_weights(model, cfg.train.init_checkpoint)
    results = evaluate(cfg, create_ddp_model(model))
    if comm.is_main_process():
        with EventStorage() as storage:
            storage.put_scalars(**{f"{t}/{k}": v for t, r in results.items() for k, v in r.items()})
            JSONWriter(os.path.join(cfg.train.output_dir, "metrics.json")).write()
    return results


def run(args) -> None:
    """One process of the run."""
    cfg = load_config(args.config_file, args.opts)
    default_setup(cfg, args)
    setup_logger(cfg.train.output_dir, comm.get_rank(), name="cropfield")
    results = evaluate_only(cfg) if args.eval_only else train(cfg, args)
    if comm.is_main_process() and results:
        box, mask = results["bbox"]["AP"], results.get("segm", {}).get("AP", math.nan)
        print(f"box AP {box:.2f}, mask AP {mask:.2f}: {Path(cfg.train.output_dir, 'result.json')}", flush=True)


def main() -> None:
    args = default_argument_parser(epilog=__doc__).parse_args()
    check(load_config(args.config_file, args.opts), args)
    launch(run, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))


if __name__ == "__main__":
    run_main(main)
