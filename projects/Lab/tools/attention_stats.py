#!/usr/bin/env python3
"""Diversity and range of a backbone's attention, by layer and head (paper's App. A, Fig. 5).

    projects/Lab/tools/attention_stats.py --weights backbone.safetensors --images coco/val2017 --limit 100 \\
        --output outputs/attention/cropfield
    projects/Lab/tools/attention_stats.py --timm vit_base_patch16_224.dino --images coco/val2017 --limit 100 \\
        --output outputs/attention/dino
    projects/Lab/tools/attention_plot.py outputs/attention/* --output fig5.png

Writes result.json (by layer: mean over heads and images), heads.csv (by layer and head) and layers.png.

Normalised mutual information (NMI) of queries and keys: 0 if all queries attend alike, 1 if each attends to a different
key. Mean attention distance: between patch centres, weighted by attention, in pixels and in percent of the image's
side. Both use patches only: the class token is excluded and the rest renormalised. Memory does not depend on the number
of images.
"""

import argparse
import logging
import time
from pathlib import Path

from lab.options import add_backbone_options, new_parser
from pretrain.engine.arguments import positive
from pretrain.errors import run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_backbone_options(parser, required=False)
    add = parser.add_argument
    add("--timm", metavar="NAME", help="instead of --weights: a plain ViT that timm downloads")
    add("--timm-random", action="store_true", help="timm's random initial weights, without a download")
    add("--images", required=True, metavar="DIR", help="a folder, a .txt list, a COCO .json or tar shards")
    add("--limit", type=positive, metavar="N", help="most images to use, spread evenly over the source")
    add("--image-size", type=int, default=480, metavar="PIXELS", help="side of the square (default: 480)")
    add("--name", help="name of the model in results (default: from --weights or --timm)")
    add("--dataset-name", help="name of the images in results (default: the last part of --images)")
    add("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    if bool(args.weights) == bool(args.timm):
        parser.error("give either --weights or --timm")
    if (args.timm_random and not args.timm) or (args.untrained and not args.weights):
        parser.error("--timm-random needs --timm, and --untrained needs --weights")
    args.name = args.name or (args.timm or args.weights.stem) + ", untrained" * (args.untrained or args.timm_random)
    return args


def load_timm(args: argparse.Namespace):
    """The backbone that --timm names, on its device."""
    from lab.timm_backbones import timm_backbone
    from pretrain.engine.devices import default_device

    return timm_backbone(args.timm, pretrained=not args.timm_random).to(args.device or default_device())


def main() -> None:
    args = parse_args()
    from cropfield.results import RESULT, write_result
    from lab.attention.images import MiddleSquares, check_size
    from lab.attention.plot import layer_metrics, read_layers, write_heads, write_layers_plot
    from lab.attention.stats import attention_stats, uniform_distance
    from lab.commands import load_backbone, peak_memory
    from pretrain.data.images import open_source
    from pretrain.outputs import open_output
    from pretrain.progress import progress

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    images = MiddleSquares(open_source(args.images), args.image_size, args.limit)
    backbone = load_timm(args) if args.timm else load_backbone(args)
    check_size(args.image_size, backbone.patch_size, args.name)
    open_output(args.output, [RESULT], written=["heads.csv", "layers.png"])
    start = time.perf_counter()
    stats = attention_stats(backbone, progress(images, "images", len(images)))
    seconds, memory = time.perf_counter() - start, peak_memory()
    metrics = layer_metrics(stats, backbone.patch_size, args.image_size)
    uniform = backbone.patch_size * uniform_distance((args.image_size // backbone.patch_size,) * 2)
    settings = {"images": stats.num_images, "broken_images": images.broken, "image_size": args.image_size}
    settings |= {"patch_size": backbone.patch_size, "tokens": "patches only, renormalised", "source": args.images}
    settings |= {"weights": str(args.weights or args.timm), "untrained": args.untrained or args.timm_random}
    settings |= {"uniform_distance_pixels": round(uniform, 3)}
    settings |= {"seconds": round(seconds, 1), "peak_memory_gib": round(memory, 2)}
    write_heads(args.output / "heads.csv", stats, backbone.patch_size, args.image_size)
    path = write_result(
        args.output, "attention", args.dataset_name or Path(args.images).stem, args.name, metrics, settings
    )
    write_layers_plot(args.output / "layers.png", [read_layers(args.output)])
    for layer in range(1, len(backbone.blocks) + 1):
        nmi, distance, percent = (
            metrics[f"{kind}_layer_{layer:02d}"] for kind in ("nmi", "distance", "distance_percent")
        )
        print(f"layer {layer:2d}: NMI {nmi:.4f}, distance {distance:6.1f} pixels ({percent:.1f}% of the side)")
    print(f"uniform: NMI 0, distance {uniform:.1f} pixels ({100 * uniform / args.image_size:.1f}% of the side)")
    print(f"{stats.num_images} images in {seconds:.0f} s, peak memory {memory:.2f} GiB: {path}")


if __name__ == "__main__":
    run_main(main)
