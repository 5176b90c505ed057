"""Command line of evaluations on labelled images: backbone, dataset, output. Imports nothing large."""

import argparse
from pathlib import Path

from lab.options import add_backbone_options, new_parser
from lab.probes.recipes import DATASETS
from pretrain.engine.arguments import positive, whole


def evaluation_parser(description: str) -> argparse.ArgumentParser:
    parser = new_parser(description)
    add_backbone_options(parser)
    add = parser.add_argument
    add("--dataset", required=True, choices=DATASETS)
    add("--data", type=Path, required=True, metavar="DIR", help="the dataset's folder")
    add("--train-list", type=Path, metavar="FILE", help="for imagenet_1pct: list of training images, one a line")
    add("--output", type=Path, required=True, metavar="DIR", help="for result.json")
    add("--image-size", type=positive, default=224, metavar="PX", help="pixels a side (default 224)")
    add("--batch-size", type=positive, metavar="B", help="images in a step")
    add("--num-workers", type=whole, default=0, metavar="N", help="processes that read images (default 0)")
    return parser


def add_cache(parser: argparse.ArgumentParser) -> None:
    default = Path("outputs", "features")
    parser.add_argument(
        "--cache", type=Path, default=default, metavar="DIR", help=f"where features are kept (default {default})"
    )
