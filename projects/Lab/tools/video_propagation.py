#!/usr/bin/env python3
"""Propagate object masks through DAVIS-2017's videos with a backbone's patch features, and measure J and F.

    projects/Lab/tools/video_propagation.py --weights vitb16.safetensors --davis datasets/DAVIS --output outputs/davis
    projects/Lab/tools/video_propagation.py --weights vitb16.safetensors --davis datasets/DAVIS --output outputs/none \\
        --untrained

--weights is any file with a plain ViT: an exported backbone, a training state, published weights. Writes
OUTPUT/result.json and OUTPUT/masks, which DAVIS's own evaluation reads as well (--results_path OUTPUT/masks). The
defaults are the protocol of DINO, which StoP's Tables 3 and 16 follow. See docs/reproduce/video.md.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

from lab.options import add_backbone_options, new_parser
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_backbone_options(parser)
    add = parser.add_argument
    add("--davis", type=Path, required=True, help="folder with JPEGImages, Annotations and ImageSets")
    add("--output", type=Path, required=True, help="folder to write: result.json, masks/, pictures/")
    add("--split", default="val", help="list in ImageSets/2017 (default: val)")
    add("--short-side", type=int, default=480, metavar="PX", help="frames' shorter side (default: 480)")
    add("--context", type=int, default=7, help="preceding frames used, besides the first (default: 7)")
    add("--radius", type=int, default=12, help="maximum displacement in patches (default: 12)")
    add("--top-k", type=int, default=5, help="number of similar patches whose labels are mixed (default: 5)")
    add("--temperature", type=float, default=0.1, help="of the softmax over cosines (default: 0.1)")
    add("--pictures", action="store_true", help="also draw a strip for each video: ground truth above predictions")
    args = parser.parse_args(argv)
    for name, least in (("short_side", 1), ("context", 0), ("radius", 0), ("top_k", 1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')}: {least} or more, not {getattr(args, name)}")
    if not args.temperature > 0:
        raise UserError(f"--temperature: above 0, not {args.temperature}")
    return args


def main() -> None:
    args = parse_args()
    from cropfield.results import RESULT, write_result
    from lab.commands import load_backbone, peak_memory
    from lab.video.davis import dataset_name, find_videos
    from lab.video.evaluate import evaluate_video, overall
    from lab.video.propagate import Propagation
    from lab.video.strips import write_strip
    from pretrain.outputs import open_output, refuse_inputs

    videos, backbone = find_videos(args.davis, args.split), load_backbone(args)
    results = open_output(args.output, [RESULT], written=["masks", "pictures"]) / "masks"
    refuse_inputs([results / video.name for video in videos], {video.masks[0].parent for video in videos})
    propagation = Propagation(args.context, args.radius, args.top_k, args.temperature)
    scores, start = [], time.perf_counter()
    for video in videos:
        begin, before = time.perf_counter(), len(scores)
        scores += evaluate_video(backbone, video, results, propagation, args.short_side)
        pace = (time.perf_counter() - begin) / len(video.frames)
        print(f"{video.name}: {len(video.frames)} frames, {pace:.2f} s a frame, {in_words(overall(scores[before:]))}")
        if args.pictures:
            write_strip(video, results, args.output / "pictures" / f"{video.name}.png")
    metrics = overall(scores)
    settings = {
        "command": shlex.join(sys.argv),
        "short_side": args.short_side,
        **vars(propagation),
        "objects": {s.name: {"J": 100 * s.region.mean, "F": 100 * s.boundary.mean} for s in scores},
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_gib": round(peak_memory(), 2),
        "device": str(args.device),
    }
    model, dataset = args.weights.stem + " (untrained)" * args.untrained, dataset_name(args.davis, args.split, videos)
    print(f"{in_words(metrics)}: {write_result(args.output, 'video', dataset, model, metrics, settings)}")


def in_words(figures: dict[str, float]) -> str:
    return f"J&F {figures['JF_mean']:.1f} (J {figures['J_mean']:.1f}, F {figures['F_mean']:.1f})"


if __name__ == "__main__":
    run_main(main)
