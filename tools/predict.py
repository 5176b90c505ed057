#!/usr/bin/env python3
"""Detect objects in images, folders of images and videos: writes pictures, and detections in COCO's format.

    tools/predict.py --config-file configs/COCO/mask_rcnn_cropfield_tiny.py \\
        --weights outputs/detector/model_final.pth --output outputs/predicted photo.jpg holiday/ film.mp4

OUTPUT, a new or empty folder, gets the pictures and predictions.json with `images` (one entry for each frame of a
video), `categories` and `annotations` with scores; boxes are [x, y, width, height] in pixels, masks compressed run
lengths. Class names are read from the weights, or from --names, a COCO file, whose ids of categories and images are
then used. For a detector trained on your own dataset, give the same dataset.train_json as in training. Broken files are
skipped and listed in OUTPUT/broken_images.txt. Running the same command again reuses the results in OUTPUT, or begins
again if they are not complete.
"""

import argparse
import os
from pathlib import Path

from pretrain.errors import run_main
from pretrain.progress import say_starting


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="images, folders, videos; then overrides of the config, key=value")
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="a detector's checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--threshold", type=float, default=0.5, help="minimum score (default 0.5)")
    parser.add_argument("--names", metavar="FILE", help="COCO file with the ids of categories and images")
    parser.add_argument("--no-pictures", action="store_true", help="write predictions.json only")
    args = parser.parse_intermixed_args(argv)
    if not 0 <= args.threshold <= 1:
        parser.error(f"--threshold {args.threshold}: give a score from 0 to 1")
    args.opts = [word for word in args.inputs if "=" in word and not os.path.exists(word)]
    args.inputs = [Path(word) for word in args.inputs if word not in args.opts]
    return args


def main() -> None:
    args = parse_args()
    say_starting()
    from cropfield.predict import predict

    predict(args)


if __name__ == "__main__":
    run_main(main)
