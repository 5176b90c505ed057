"""Draw the picture of the method that the README shows; or Fig. 3, the distributions of the scale s.

    python projects/Lab/tools/draw_method.py --output docs/method.png
    python projects/Lab/tools/draw_method.py --scales --output fig3.png

By default on a photograph that scikit-image ships (NASA's, of Eileen Collins; public domain); --image takes any other.
"""

import argparse
from pathlib import Path

from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--image", type=Path, help="an image file (default: scikit-image's astronaut)")
    parser.add_argument("--seed", type=int, default=1, help="of the crops and masks (default: 1)")
    parser.add_argument("--scales", action="store_true", help="the three distributions of s in Table 4a, as drawn")
    return parser.parse_args(argv)


def load(path: Path | None):
    from pretrain.data.images import BrokenImage, decode_image

    if path is None:
        from skimage.data import astronaut

        return astronaut()
    try:
        return decode_image(path)
    except BrokenImage as error:
        raise UserError(f"{error}: give another --image") from error


def main() -> None:
    args = parse_args()
    if args.scales:
        from lab.figures.scale_plot import write_plot

        means = write_plot(args.output)
        print(f"{args.output}: means " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()))
        return
    from PIL import Image

    from lab.figures.method_picture import method_picture

    picture = Image.fromarray(method_picture(load(args.image), args.seed))
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        picture.quantize(256, method=Image.Quantize.MEDIANCUT).save(args.output, format="PNG", optimize=True)
    except OSError as error:
        raise UserError(f"cannot write {args.output}: {error.strerror or error}") from error
    print(f"{args.output}: {picture.width} x {picture.height}, {args.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    run_main(main)
