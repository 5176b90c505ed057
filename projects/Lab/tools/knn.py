#!/usr/bin/env python3
"""Weighted k-nearest neighbours on a frozen backbone's last layer (DINO's protocol), without training.

    projects/Lab/tools/knn.py --weights vitb16.safetensors --dataset imagenet --data datasets/imagenet --output knn

Shares its feature cache with linear_probe.py. See docs/reproduce/probes.md.
"""

import argparse

from lab.probes.arguments import add_cache, evaluation_parser
from pretrain.engine.arguments import above_zero, positive
from pretrain.errors import run_main

NEIGHBOURS = [10, 20, 100, 200]


def parse_args(argv=None) -> argparse.Namespace:
    parser = evaluation_parser(__doc__)
    add = parser.add_argument
    add("--pool", choices=("cls", "patch"), help="default: class token if the backbone has one")
    add("--k", type=positive, nargs="+", default=NEIGHBOURS, help="neighbours (default 10 20 100 200)")
    add("--temperature", type=above_zero, default=0.07, help="temperature of the votes (default 0.07)")
    add_cache(parser)
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    from detectron2.utils.logger import setup_logger

    from cropfield.knn import knn_accuracy
    from cropfield.results import RESULT
    from lab.probes.evaluation import features_of, report
    from pretrain.outputs import open_output

    open_output(args.output, [RESULT])
    setup_logger(str(args.output), name="pretrain", abbrev_name="pretrain")
    train, val, _ = features_of(args, pools=(args.pool,) if args.pool else None)
    vectors = [features.select(features.pools[0], 1).to(args.device) for features in (train, val)]
    labels = [features.labels.to(args.device) for features in (train, val)]
    shares = {k: knn_accuracy(vectors[0], labels[0], vectors[1], labels[1], k, args.temperature) for k in args.k}
    metrics = {"top1": 100 * max(shares.values())} | {f"top1_k{k}": 100 * share for k, share in shares.items()}
    choices = {name: getattr(args, name) for name in ("image_size", "temperature", "seed")}
    report(args, "knn", metrics, choices | {"pool": train.pools[0], "images": [len(train), len(val)]})


if __name__ == "__main__":
    run_main(main)
