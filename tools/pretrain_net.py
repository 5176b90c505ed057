"""Pretrain a trunk on unlabeled images.

    python tools/pretrain_net.py --config-file configs/pretrain/cropfield_tiny.py dataloader.train.source.root=DIR

Writes to train.output_dir: last.pth (training state), config.yaml, metrics.json, log.txt and TensorBoard events.
"""

import argparse

from pretrain.errors import run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a LazyConfig file of configs/pretrain")
    parser.add_argument("--resume", action="store_true", help="go on from train.output_dir/last.pth")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    return parser.parse_intermixed_args(argv)


def main() -> None:
    args = parse_args()
    from pretrain.engine.lazy_config import load_config
    from pretrain.engine.run import pretrain

    pretrain(load_config(args.config_file, args.overrides), resume=args.resume)


if __name__ == "__main__":
    run_main(main)
