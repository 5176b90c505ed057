#!/usr/bin/env python3
"""Measure time and memory against plain reference implementations, and print the ratios.

    projects/Lab/tools/benchmark.py data
    projects/Lab/tools/benchmark.py step --dtype bfloat16 --threads 2 --json outputs/step.json

Ours and the plain version run interleaved in one process (`step` and `gpu` need a checkout, because theirs is in
tests/reference). The ratio is the median over pairs of ours / plain; the spread is their quartiles. --json also writes
everything with a description of the case and the machine.
"""

import argparse
import importlib
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from lab.options import new_parser
from pretrain.engine.arguments import height_by_width
from pretrain.errors import UserError, run_main

COMMANDS = {
    "data": "decoding, crops and augmentation, against PIL and torchvision",
    "step": "a step of pretraining, against plain DINOv2",
    "memory": "peak memory of the losses, against full logits",
    "growth": "time and memory over crops, resolution, prototypes and batch",
    "detection": "training and inference at 1024 x 1024, against Detectron2's parts",
    "operations": "what proposals and heads ask of a GPU's host, against Detectron2's; needs no GPU",
    "evaluate": "COCO AP by hotcoco, against pycocotools",
    "gpu": "images a second and fraction of the card's peak; needs a GPU",
}


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    parser.epilog = "commands:\n" + "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
    add("command", choices=COMMANDS, metavar="command", help=", ".join(COMMANDS))
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
    add("--threads", type=int, metavar="N", help="CPU threads of torch (default: torch's choice)")
    add("--pairs", type=int, metavar="N", help="pairs of runs (default: the command's own)")
    add("--images", type=int, metavar="N", help="images in a step, or to evaluate (default: the command's own)")
    add("--backbone", choices=("vits", "vitb"), help="default vits; gpu measures both")
    add("--image-size", type=height_by_width, metavar="HxW", help="of images (default: the command's own)")
    add("--frozen", action="store_true", help="detection: the backbone frozen against trained, and cached features")
    add("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args(argv)
    if options.command != "gpu":
        options.backbone = options.backbone or "vits"
    if options.frozen and options.command != "detection":
        raise UserError(f"--frozen is for detection, not for {options.command}; leave it out")
    for name in ("threads", "pairs", "images"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: give a number of at least 1")
    if options.json and (options.json.is_dir() or options.json.suffix == ".png"):
        raise UserError(f"--json {options.json}: give the name of a .json file")
    return options


def as_tables(comparisons: list) -> str:
    """Format the comparisons as one table, followed by the additional tables of each."""
    heads = ("what", "ours", "plain", "ours / plain", "quartiles", "pairs")
    rows = [
        (c.name, f"{c.ours:.4g} {c.unit}", f"{c.plain:.4g} {c.unit}", f"{c.ratio:.3f}",
         f"{c.spread[0]:.3f} - {c.spread[1]:.3f}", c.what["pairs"])
        for c in comparisons
    ]  # fmt: skip
    further = [
        f"{title}\n{tabulate(table, headers='keys', floatfmt='.3g')}"
        for comparison in comparisons
        for title, table in comparison.tables.items()
    ]
    return "\n\n".join([tabulate(rows, heads, disable_numparse=True), *further])


def main() -> None:
    options = parse_args()
    import torch

    from lab.benchmarks.comparison import machine
    from pretrain.files import write_json
    from pretrain.outputs import refuse_existing

    refuse_existing(options.json, options.json and options.command == "growth" and options.json.with_suffix(".png"))

    if options.threads:
        torch.set_num_threads(options.threads)
    facts = machine()
    comparisons = importlib.import_module(f"lab.benchmarks.{options.command}").run(options)
    print(as_tables(comparisons))
    print("\n" + ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None))
    if options.json:
        results = list(map(asdict, comparisons))
        write_json(options.json, {"command": options.command, "machine": facts, "comparisons": results})


if __name__ == "__main__":
    run_main(main)
