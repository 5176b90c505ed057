#!/usr/bin/env python3
"""Weighted k-nearest neighbours on a frozen trunk's last layer (DINO's protocol): nothing is trained.

    projects/Lab/tools/knn.py --weights vitb16.safetensors --dataset imagenet --data datasets/imagenet --output outputs/knn

Uses the features that projects/Lab/tools/linear_probe.py has kept, and keeps its own for it. docs/evaluation_probes.md has more.
"""

from detectron2.utils.logger import setup_logger

from lab.probes.arguments import add_cache, evaluation_parser, features_of, positive, report
from lab.probes.knn import knn_accuracy
from pretrain.errors import run_main


def parse_args(argv=None):
    parser = evaluation_parser(__doc__)
    parser.add_argument("--pool", choices=("cls", "patch"), help="default: class token if the trunk has one")
    parser.add_argument(
        "--k", type=positive, nargs="+", default=[10, 20, 100, 200], help="neighbours (default 10 20 100 200)"
    )
    parser.add_argument("--temperature", type=float, default=0.07, help="of the votes (default 0.07)")
    add_cache(parser)
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    setup_logger(str(args.output), name="pretrain", abbrev_name="pretrain")
    train, val, _ = features_of(args, pools=(args.pool,) if args.pool else None)
    vectors = [features.select(features.pools[0], 1).to(args.device) for features in (train, val)]
    labels = [features.labels.to(args.device) for features in (train, val)]
    metrics = {}
    for k in args.k:
        share = knn_accuracy(vectors[0], labels[0], vectors[1], labels[1], k, args.temperature)
        metrics[f"top1_k{k}"] = 100 * share
    metrics = {"top1": max(metrics.values())} | metrics
    choices = {name: getattr(args, name) for name in ("image_size", "temperature", "seed")}
    choices |= {"pool": train.pools[0], "images": [len(train), len(val)]}
    report(args, "knn", metrics, choices)


if __name__ == "__main__":
    run_main(main)
