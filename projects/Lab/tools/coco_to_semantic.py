#!/usr/bin/env python3
"""Make a semantic segmentation dataset in ADE20K's layout from a COCO-format one with masks.

    tools/compose_coco.py --output outputs/scenes
    projects/Lab/tools/coco_to_semantic.py outputs/scenes --output outputs/semantic
    tools/lazyconfig_train_net.py --config-file projects/Lab/configs/ADE20K/semantic_linear_cropfield_tiny.py \\
        dataset.root=outputs/semantic dataset.classes=outputs/semantic/classes.txt

ROOT contains annotations/instances_{train,val}.json, train/ and val/, as from tools/compose_coco.py. Class 0 is the
background, the others are the categories; OUTPUT/classes.txt names them.
"""

from pathlib import Path

from lab.options import new_parser
from pretrain.errors import run_main


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("root", type=Path, help="folder with annotations/, train/ and val/")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    args = parser.parse_args()
    from cropfield.datasets import read_coco_file
    from lab.semantic.layout import NAMES, SPLITS, convert_coco

    splits = {
        theirs: (read_coco_file(str(args.root / "annotations" / f"instances_{ours}.json")), args.root / ours)
        for ours, theirs in SPLITS.items()
    }
    for split, count in convert_coco(splits, args.output).items():
        print(f"{split}: {count} images")
    print(f"classes: {args.output / NAMES}")


if __name__ == "__main__":
    run_main(main)
