#!/usr/bin/env python3
"""Fine-tune and evaluate a detector, or a semantic segmentor, from a LazyConfig file.

    tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_cropfield_tiny.py \\
        train.init_checkpoint=backbone.safetensors train.output_dir=outputs/detector \\
        dataset.train_json=T.json dataset.train_images=T/ dataset.val_json=V.json dataset.val_images=V/

The configs also work with Detectron2's tool of the same name. This one checks overrides, data and weights first,
reports how a backbone file matched, and writes the result to OUTPUT/result.json. It adapts the schedule to the batch
size and supports gradient accumulation, best checkpoints, weight averaging, early stopping, compilation and Weights &
Biases, each with a key of `train` (configs/common/detection.py). --card 8 fits an 8 GB card.
"""

import argparse
from pathlib import Path

from pretrain.engine.arguments import add_processes
from pretrain.errors import run_main
from pretrain.progress import say_starting

PRESETS = Path(__file__).resolve().parents[1] / "configs" / "common" / "detection_presets.py"


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="a LazyConfig file, such as those in configs/COCO")
    add("--resume", action="store_true", help="resume from the last checkpoint in train.output_dir")
    add("--eval-only", action="store_true", help="only evaluate train.init_checkpoint")
    add("--card", type=int, choices=(8, 16, 24), help="fit a graphics card with this many GB")
    add_processes(parser)
    add("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


def read_config(args: argparse.Namespace):
    """The config with the card's preset, then the overrides, then the schedule adapted to the batch size."""
    from detectron2.config import LazyConfig

    from cropfield.forms import Detection
    from cropfield.recipe import fit_schedule
    from pretrain.engine.lazy_config import load_config

    preset = LazyConfig.load(str(PRESETS), "PRESETS")[args.card] if args.card else ()
    cfg = load_config(args.config_file, [*preset, *args.opts], Detection)
    return cfg, [*preset, *fit_schedule(cfg, args.opts)]


def work(args: argparse.Namespace, seed: int | None, states: list[dict]) -> None:
    """Run one process; see `cropfield.run.run`."""
    from cropfield.run import run

    cfg, changes = read_config(args)
    run(cfg, args, changes, seed, states)


def main() -> None:
    args = parse_args()
    say_starting()
    from cropfield.checks import check
    from pretrain.engine.cpu_memory import tune_cpu_memory
    from pretrain.engine.distributed import start

    cfg = read_config(args)[0]
    if cfg.train.device == "cpu":
        tune_cpu_memory()
    states = [state for state in [check(cfg, args)] if state]
    seed = states[0]["trainer"].get("seed") if states else None
    if args.num_gpus * args.num_machines > 1:  # other processes load it themselves
        states.clear()
    start(work, (args, seed, states), args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)


def __getattr__(name: str):
    """Import `load_config` and `check` on first use, for callers that load this file as a module; keeps --help fast."""
    if name == "load_config":
        from pretrain.engine.lazy_config import load_config as found
    elif name == "check":
        from cropfield.checks import check as found
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


if __name__ == "__main__":
    run_main(main)
