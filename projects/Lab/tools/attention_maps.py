#!/usr/bin/env python3
"""Attention of the last layer from chosen points, for several models side by side (paper's Figs. 6 and 7).

    projects/Lab/tools/attention_maps.py --weights ours.safetensors dino.pth --images cat.jpg street.jpg \\
        --points 0.4,0.3 0.5,0.8 --output fig6.png
    projects/Lab/tools/attention_maps.py --weights box.safetensors cross.safetensors --images street.jpg \\
        --points 0.3,0.5 0.7,0.5 --output fig7.png

One row for each point: the image with a red dot, then each model's map, averaged over heads. Points are (x, y) from 0
to 1, from the upper left of the image's central square. Equally many points and images are paired in order; otherwise
one image is used with all points, or one point with all images.

Fig. 7 compares backbones pretrained with configs/pretrain/ablations/table5a_box.py, whose positions are masked
box-wise, and with the default, cross-wise: look for vertical lines.
"""

import argparse
from pathlib import Path

from lab.attention.points import check_points, point
from lab.options import new_parser
from pretrain.engine.arguments import positive
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--weights", nargs="+", default=[], metavar="FILE", help="exports, training states, public weights")
    add("--untrained", action="store_true", help="add a column with random weights and the first file's architecture")
    add("--num-heads", type=int, metavar="N", help="for --weights that do not record it")
    add("--seed", type=int, default=0, help="seed of the random weights")
    add("--timm", nargs="+", default=[], metavar="NAME", help="more columns: plain ViTs of timm")
    add("--names", nargs="+", metavar="NAME", help="titles of the columns (default: the files' and timm's names)")
    add("--images", nargs="+", required=True, type=Path, metavar="FILE")
    add("--points", nargs="+", required=True, type=point, metavar="X,Y")
    add("--image-size", type=positive, default=480, metavar="PIXELS", help="side of the square (default: 480)")
    add("--output", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(argv)
    if not args.weights and not args.timm:
        parser.error("give --weights or --timm")
    if args.untrained and not args.weights:
        parser.error("--untrained needs --weights")
    check_points(parser, args.images, args.points)
    return args


def open_models(args: argparse.Namespace) -> dict:
    """Backbones by column title."""
    import torch

    from lab.attention.images import check_size
    from lab.timm_backbones import timm_backbone
    from pretrain.models.weights import open_backbone

    found = [(Path(path).stem, open_backbone(path, args.num_heads)) for path in args.weights]
    if args.untrained:
        torch.manual_seed(args.seed)
        found.append(("untrained", open_backbone(args.weights[0], args.num_heads, untrained=True)))
    found += [(name, timm_backbone(name)) for name in args.timm]
    names = args.names or [name for name, _ in found]
    if len(names) != len(found) or len(set(names)) < len(names):
        raise UserError(f"{len(found)} models are called {', '.join(names)}; give --names, a different one for each")
    models = dict(zip(names, (backbone for _, backbone in found), strict=True))
    for name, backbone in models.items():
        check_size(args.image_size, backbone.patch_size, name)
    return models


def main() -> None:
    args = parse_args()
    from lab.attention.images import load_points
    from lab.attention.maps import maps_picture
    from lab.commands import write_picture
    from pretrain.outputs import refuse_existing

    refuse_existing(args.output)
    marked_images = load_points(args.images, args.points, args.image_size)
    print(write_picture(args.output, maps_picture(open_models(args), marked_images), palette=True))


if __name__ == "__main__":
    run_main(main)
