"""Where the patch at a point looks in the last layer, for several models side by side (paper's Figs. 6 and 7).

    python projects/Lab/tools/attention_maps.py --weights ours.safetensors dino.pth --images cat.jpg street.jpg \\
        --points 0.4,0.3 0.5,0.8 --output fig6.png
    python projects/Lab/tools/attention_maps.py --weights box.safetensors cross.safetensors --images street.jpg \\
        --points 0.3,0.5 0.7,0.5 --output fig7.png

A row for each query: the image with a red dot, then each model's map, the mean over heads. Points are (x, y) from 0 to
1 from the upper left of the image's middle square. As many points as images go together in order; otherwise one image
takes all points, or all images take one point.

Fig. 7 compares trunks pretrained with configs/pretrain/ablations/table5a_box.py, whose positions are masked box-wise,
and with the default, cross-wise: look for vertical lines.
"""

import argparse
from pathlib import Path

from lab.attention.points import check_queries, load_queries, point
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="FILE", help="exports, training states, public weights"
    )
    parser.add_argument(
        "--untrained", action="store_true", help="add a column: random weights, shaped as the first file's"
    )
    parser.add_argument("--num-heads", type=int, metavar="N", help="of all --weights that do not record them")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--timm", nargs="+", default=[], metavar="NAME", help="more columns: plain ViTs of timm")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the columns (default: the files' and timm's)")
    parser.add_argument("--images", nargs="+", required=True, type=Path, metavar="FILE")
    parser.add_argument("--points", nargs="+", required=True, type=point, metavar="X,Y")
    parser.add_argument("--image-size", type=int, default=480, metavar="PIXELS", help="a side (default: 480)")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(argv)
    if not args.weights and not args.timm:
        parser.error("give --weights or --timm")
    if args.untrained and not args.weights:
        parser.error("--untrained belongs to --weights")
    check_queries(parser, args.images, args.points)
    return args


def open_models(args: argparse.Namespace) -> dict:
    """Trunks by the names of their columns."""
    import torch

    from lab.attention.images import check_size
    from lab.timm_trunks import timm_trunk
    from lab.trunks import build_trunk, open_trunk

    found = [(Path(path).stem, open_trunk(path, args.num_heads)) for path in args.weights]
    if args.untrained:
        torch.manual_seed(args.seed)
        found.append(("untrained", build_trunk(args.weights[0], args.num_heads)))
    found += [(name, timm_trunk(name)) for name in args.timm]
    names = args.names or [name for name, _ in found]
    if len(names) != len(found) or len(set(names)) < len(names):
        raise UserError(f"{len(found)} models are called {', '.join(names)}; give --names, one of its own for each")
    for name, (_, trunk) in zip(names, found, strict=True):
        check_size(args.image_size, trunk.patch_size, name)
    return dict(zip(names, (trunk for _, trunk in found), strict=True))


def main() -> None:
    args = parse_args()
    from PIL import Image

    from lab.attention.maps import maps_picture
    from pretrain.files import replacing

    queries = load_queries(args.images, args.points, args.image_size)
    picture = Image.fromarray(maps_picture(open_models(args), queries))
    with replacing(args.output) as draft:
        picture.quantize(256, method=Image.Quantize.MEDIANCUT).save(draft, format="PNG", optimize=True)
    print(f"{args.output}: {picture.width} x {picture.height}")


if __name__ == "__main__":
    run_main(main)
