#!/usr/bin/env python3
"""Draw the README's picture of the method, or Fig. 3, the distributions of the scale s.

    projects/Lab/tools/draw_method.py --output docs/method.png
    projects/Lab/tools/draw_method.py --scales --output fig3.png

The default image is a photograph shipped with scikit-image (NASA's, of Eileen Collins; public domain).
"""

from pathlib import Path

from lab.options import new_parser
from pretrain.engine.arguments import whole
from pretrain.errors import UserError, run_main


def load(path: Path | None):
    if path is None:
        from skimage.data import astronaut

        return astronaut()
    from pretrain.data.decode import BrokenImage, decode_image

    try:
        return decode_image(path)
    except BrokenImage as error:
        raise UserError(f"{error}: give another --image") from error


def main() -> None:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="the PNG to write")
    add("--image", type=Path, help="an image file (default: scikit-image's astronaut)")
    add("--seed", type=whole, default=1, help="seed of crops and masks (default: 1)")
    add("--scales", action="store_true", help="plot the three distributions of s in Table 4a")
    args = parser.parse_args()
    from lab.commands import write_picture
    from lab.figures.method_picture import method_picture
    from lab.figures.scale_plot import write_plot
    from pretrain.outputs import refuse_existing

    refuse_existing(args.output)
    if args.scales:
        means = write_plot(args.output)
        print(f"{args.output}: means " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()))
    else:
        print(write_picture(args.output, method_picture(load(args.image), args.seed), palette=True))


if __name__ == "__main__":
    run_main(main)
