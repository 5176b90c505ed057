#!/usr/bin/env python3
"""Compose a COCO-format dataset: cut-outs placed on photographs, with exact boxes and masks.

    tools/compose_coco.py --output outputs/scenes --train 1000 --val 200
    tools/compose_coco.py --output outputs/mine --cutouts my/cutouts --photos my/photos --preset hard

Without --cutouts and --photos it uses material included in installed packages, and downloads nothing. Masks are run
lengths, exact with holes and occlusion, so Detectron2 needs `INPUT.MASK_FORMAT = "bitmask"` (yaml) or
`instance_mask_format="bitmask"` (LazyConfig's mapper).
"""

import argparse
from pathlib import Path

from pretrain.errors import UserError, run_main

# easy: small images, few objects, all seen in training, most of their category's own material. hard: clutter, other
# objects in validation, and only the shape identifies the category. objects and scenes have ImageNet's and COCO's
# proportions, for pretraining and detection: one object that fills the image, and many small ones in larger images.
# Both need --cutouts (projects/Lab/tools/openmoji_cutouts.py makes some) and hold out the same ones of a category.
PRESETS = {
    "easy": dict(
        size=128,
        classes=6,
        objects=(1, 4),
        scale=(0.25, 0.55),
        rotation=15.0,
        occlusion=0.25,
        typical=0.8,
        unseen=False,
    ),
    "hard": dict(
        size=256,
        classes=8,
        objects=(2, 8),
        scale=(0.1, 0.5),
        rotation=30.0,
        occlusion=0.5,
        typical=0.0,
        unseen=True,
    ),
    "objects": dict(
        size=96,
        classes=None,
        objects=(1, 1),
        scale=(0.5, 0.9),
        rotation=15.0,
        occlusion=0.0,
        typical=0.0,
        unseen=True,
    ),
    "scenes": dict(
        size=256,
        classes=None,
        objects=(3, 10),
        scale=(0.08, 0.35),
        rotation=15.0,
        occlusion=0.25,
        typical=0.0,
        unseen=True,
    ),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options, with the preset's values as defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder to write: annotations/, train/, val/, unlabeled/")
    add(
        "--cutouts",
        type=Path,
        metavar="DIR",
        help="RGBA files, a sub-folder for each category (default: pictographs)",
    )
    add(
        "--photos",
        type=Path,
        metavar="DIR",
        help="photographs, any sub-folders (default: those that packages ship)",
    )
    add("--train", type=int, default=1000, metavar="N", help="training images (default: 1000)")
    add("--val", type=int, default=200, metavar="N", help="validation images (default: 200)")
    add(
        "--unlabeled",
        type=int,
        default=0,
        metavar="N",
        help="further images as in training, without annotations",
    )
    add("--preset", choices=PRESETS, default="easy", help="values for the options below (default: easy)")
    add("--size", type=int, metavar="PX", help="side of the square images")
    add("--objects", type=int, nargs=2, metavar=("LO", "HI"), help="objects in an image, if there is room")
    add(
        "--scale",
        type=float,
        nargs=2,
        metavar=("LO", "HI"),
        help="longer side of an object relative to the image",
    )
    add("--occlusion", type=float, metavar="SHARE", help="greatest hidden fraction of an object, 0 to 0.9")
    add("--rotation", type=float, metavar="DEG", help="greatest rotation in either direction")
    add("--classes", type=int, metavar="K", help="categories, the first K (default with --cutouts: all)")
    add(
        "--typical",
        type=float,
        metavar="SHARE",
        help="fraction of pictographs in their category's own colour and texture, 0 to 1",
    )
    add(
        "--unseen",
        action=argparse.BooleanOptionalAction,
        help="use other objects and photographs for validation",
    )
    add("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    add("--overwrite", action="store_true", help="replace a dataset from an earlier call")
    options = parser.parse_args(argv)
    for name, value in PRESETS[options.preset].items():
        if getattr(options, name) is None and not (name == "classes" and options.cutouts):
            setattr(options, name, value)
    return options


def check(options: argparse.Namespace) -> None:
    """Raise UserError for a value out of range."""
    (few, many), (small, large) = options.objects, options.scale
    wrong = {
        "--train and --val: at least 1 image each": min(options.train, options.val) < 1,
        "--unlabeled: not below 0": options.unlabeled < 0,
        "--size: from 32 to 4096 pixels": not 32 <= options.size <= 4096,
        "--objects: two numbers, 1 <= LO <= HI": not 1 <= few <= many,
        "--scale: two numbers, 0 < LO <= HI <= 1": not 0 < small <= large <= 1,
        "--occlusion: from 0 to 0.9": not 0 <= options.occlusion <= 0.9,
        "--rotation: from 0 to 180 degrees": not 0 <= options.rotation <= 180,
        "--typical: from 0 to 1": not 0 <= options.typical <= 1,
        "--classes: at least 1": options.classes is not None and options.classes < 1,
        "--seed: not below 0": options.seed < 0,
    }
    for rule, broken in wrong.items():
        if broken:
            raise UserError(f"{rule}; got another value.")


def main() -> None:
    options = parse_args()
    check(options)
    from lab.compose.dataset import Plan
    from lab.compose.scene import Layout
    from lab.compose.write import compose_dataset

    layout = Layout(options.size, tuple(options.objects), tuple(options.scale), options.rotation, options.occlusion)
    plan = Plan(
        train=options.train,
        val=options.val,
        unlabeled=options.unlabeled,
        layout=layout,
        classes=options.classes,
        unseen=options.unseen,
        typical=options.typical,
        seed=options.seed,
        cutouts=options.cutouts,
        photographs=options.photos,
    )
    compose_dataset(plan, options.output, options.overwrite)


if __name__ == "__main__":
    run_main(main)
