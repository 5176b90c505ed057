#!/usr/bin/env python3
"""Compose small videos in DAVIS-2017's layout: objects that move over a photograph, with exact masks.

    projects/Lab/tools/compose_davis.py --output outputs/videos
    projects/Lab/tools/video_propagation.py --weights backbone.safetensors --davis outputs/videos --output outputs/davis

Material is taken from installed packages; nothing is downloaded. The videos are for trying video_propagation.py and no
substitute for DAVIS: results on them do not predict results there.
"""

import argparse
from pathlib import Path

from lab.options import new_parser
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder to write: JPEGImages, Annotations, ImageSets")
    add("--videos", type=int, default=3, help="(default: 3)")
    add("--frames", type=int, default=20, help="frames of each video (default: 20)")
    add("--objects", type=int, default=2, help="objects in each video (default: 2)")
    add("--size", type=int, nargs=2, default=(480, 854), metavar=("H", "W"), help="size of a frame (default: 480 854)")
    add("--seed", type=int, default=0, help="same seed, same videos (default: 0)")
    args = parser.parse_args(argv)
    wrong = {
        "--videos: 1 or more": args.videos < 1,
        "--frames: from 3 to 99,999": not 3 <= args.frames <= 99_999,
        "--objects: from 1 to 6": not 1 <= args.objects <= 6,
        "--size: two sides of 32 to 4,096 pixels": not all(32 <= side <= 4096 for side in args.size),
        "--seed: 0 or more": args.seed < 0,
    }
    for rule, broken in wrong.items():
        if broken:
            raise UserError(f"{rule}; got another value")
    return args


def main() -> None:
    args = parse_args()
    from lab.compose.videos import VideoPlan, compose_videos
    from lab.video.davis import davis_palette

    plan = VideoPlan(args.videos, args.frames, args.objects, tuple(args.size), args.seed)
    compose_videos(plan, args.output, davis_palette())
    print(f"{args.output}: {plan.videos} videos of {plan.frames} frames, {plan.objects} objects in each")


if __name__ == "__main__":
    run_main(main)
