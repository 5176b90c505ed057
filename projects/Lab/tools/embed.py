#!/usr/bin/env python3
"""Extract features of images for other programs: class tokens, mean and patch features, with file names.

    projects/Lab/tools/embed.py --weights outputs/backbone.safetensors --images photos/ --output outputs/embeddings \\
        --features cls mean

Images may be any source that pretraining reads: a folder, pattern, list, COCO file or tar shards. OUTPUT gets shards,
embeddings-<k>.safetensors, with one row for each readable image. Read them with

    with safetensors.safe_open(FILE, "pt") as file:
        names, cls = json.loads(file.metadata()["names"]), file.get_tensor("cls")

Run the same command again to continue after an interruption.
"""

import argparse
from pathlib import Path

from lab.options import add_backbone_options, new_parser
from lab.wanted import DTYPES, KINDS, Wanted
from pretrain.engine.arguments import positive
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_backbone_options(parser)
    add, default = parser.add_argument, Wanted()
    add("--images", required=True, metavar="SOURCE", help="a folder, pattern, list, COCO file or tar shards")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--features", nargs="+", choices=KINDS, default=list(default.kinds), help="default: cls")
    add(
        "--image-size",
        type=positive,
        default=default.image_size,
        metavar="PX",
        help="side of the square input (default 224)",
    )
    add("--framing", choices=("centre", "whole"), default=default.framing, help="central square, or the whole image")
    add("--dtype", choices=DTYPES, default=default.dtype, help="default: float32")
    add("--shard", type=positive, default=default.shard, metavar="N", help="most images in a file (default 10,000)")
    add("--batch-size", type=positive, default=64, metavar="B")
    add("--num-workers", type=int, default=0, metavar="N", help="processes that read images (default 0)")
    args = parser.parse_args(argv)
    if args.num_workers < 0:
        raise UserError(f"--num-workers {args.num_workers}: give 0 or more")
    return args


def main() -> None:
    args = parse_args()
    from lab.commands import load_backbone
    from lab.embeddings import write_embeddings
    from pretrain.data.images import open_source
    from pretrain.outputs import open_output

    source, backbone = open_source(args.images), load_backbone(args)
    wanted = Wanted(tuple(dict.fromkeys(args.features)), args.image_size, args.framing, args.dtype, args.shard)
    output = open_output(args.output)
    for done, rate in write_embeddings(backbone, source, wanted, output, args.batch_size, args.num_workers):
        print(f"{done:,} of {len(source):,} images, {f'{rate:.1f} a second' if rate else 'done before'}", flush=True)
    print(f"embeddings: {output}")


if __name__ == "__main__":
    run_main(main)
