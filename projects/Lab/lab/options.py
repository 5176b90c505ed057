"""Options that the laboratory's commands share. Imports nothing large, so --help comes at once."""

import argparse
from pathlib import Path

from pretrain.engine.arguments import positive, whole


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help is the tool's docstring, unwrapped."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_backbone_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add --weights, --num-heads, --untrained, --seed and --device, for `load_backbone`."""
    add, weights = parser.add_argument, "a backbone file, a training state or public ViT weights"
    add("--weights", type=Path, required=required, metavar="FILE", help=weights)
    add(
        "--num-heads",
        type=positive,
        metavar="N",
        help="only if --weights does not record it (default: as in published ViTs of that width)",
    )
    add("--untrained", action="store_true", help="use the file's architecture with initial weights, as a baseline")
    add("--seed", type=whole, default=0, help="seed of initial weights and sampling (default 0)")
    add("--device", help="default: cuda if available")
