#!/usr/bin/env python3
"""Convert ADE20K's published labels to Detectron2's format.

    projects/Lab/tools/prepare_ade20k.py datasets/ADEChallengeData2016

Reads ROOT/annotations, where 0 is "other" and the classes are 1 to 150, and writes ROOT/annotations_detectron2, where
the classes are 0 to 149 and 255 is ignored. The output is written atomically.
"""

from pathlib import Path

from lab.options import new_parser
from pretrain.errors import run_main


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("root", type=Path, help="the folder ADEChallengeData2016")
    root = parser.parse_args().root
    from lab.semantic.layout import LABELS, convert_raw_labels

    for split, count in convert_raw_labels(root).items():
        print(f"{root / LABELS / split}: {count} files")


if __name__ == "__main__":
    run_main(main)
