#!/usr/bin/env python3
"""Pretrain a backbone on unlabeled images.

    tools/pretrain_net.py --config-file configs/pretrain/cropfield_tiny.py dataloader.train.source.root=DIR

Several GPUs: add --num-gpus 8, or start it with torchrun --nproc-per-node 8. The config's batch size is the total over
all processes. See docs/scaling.md for several machines, Slurm, and saving memory.

Images of bands other than RGB need their own mean and deviation: --statistics prints them, and stops.

Writes to train.output_dir: last.pth (training state), config.yaml, metrics.json, log.txt and TensorBoard events.
"""

import argparse

from pretrain.engine.arguments import add_processes
from pretrain.errors import run_main
from pretrain.progress import say_starting


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a LazyConfig file, such as those in configs/pretrain"
    )
    parser.add_argument("--resume", action="store_true", help="resume from train.output_dir/last.pth")
    parser.add_argument(
        "--statistics", action="store_true", help="only print the images' mean and deviation, as overrides"
    )
    add_processes(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


def load(args: argparse.Namespace):
    from pretrain.engine.forms import Pretraining
    from pretrain.engine.lazy_config import load_config

    return load_config(args.config_file, args.overrides, Pretraining)


def run(args: argparse.Namespace) -> None:
    """One process of the run."""
    from pretrain.engine.run import pretrain

    pretrain(load(args), resume=args.resume)


def main() -> None:
    args = parse_args()
    say_starting()
    from pretrain.engine.distributed import start

    cfg = load(args)  # report a mistake once, before there are many processes
    if args.statistics:
        from pretrain.data.statistics import print_statistics
        from pretrain.engine.lazy_config import build

        print_statistics(build(cfg, "dataloader.train.source"))
        return
    start(run, (args,), args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)


if __name__ == "__main__":
    run_main(main)
