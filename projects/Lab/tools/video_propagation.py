#!/usr/bin/env python3
"""Follow objects through the videos of DAVIS-2017 by a trunk's patch features, and measure J and F.

    projects/Lab/tools/video_propagation.py --weights vitb16.safetensors --davis datasets/DAVIS --output outputs/davis
    projects/Lab/tools/video_propagation.py --weights vitb16.safetensors --davis datasets/DAVIS --output outputs/none --untrained

--weights is any file that holds a plain ViT: an exported backbone, a training state, published weights. Writes
OUTPUT/result.json and OUTPUT/masks, which DAVIS's own evaluation reads as well (--results_path OUTPUT/masks). The
defaults are the protocol of DINO, which StoP's Tables 3 and 16 follow. See docs/evaluation_video.md.
"""

import argparse
import resource
import shlex
import sys
import time
from pathlib import Path

import torch

from cropfield.results import write_result
from lab.trunks import build_trunk, open_trunk
from lab.video.davis import dataset_name, find_videos
from lab.video.evaluate import evaluate_video, overall
from lab.video.propagate import Propagation
from lab.video.strips import write_strip
from pretrain.engine.devices import default_device
from pretrain.errors import UserError, run_main


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="file with a plain ViT")
    add("--davis", type=Path, required=True, help="folder of JPEGImages, Annotations and ImageSets")
    add("--output", type=Path, required=True, help="folder to write: result.json, masks/, pictures/")
    add("--untrained", action="store_true", help="a random trunk of the same shape, to compare with")
    add("--seed", type=int, default=0, help="of the untrained trunk (default: 0)")
    add("--split", default="val", help="list in ImageSets/2017 (default: val)")
    add("--short-side", type=int, default=480, metavar="PX", help="frames' shorter side (default: 480)")
    add("--context", type=int, default=7, help="frames looked back at, besides the first (default: 7)")
    add("--radius", type=int, default=12, help="patches that a patch may have moved (default: 12)")
    add("--top-k", type=int, default=5, help="patches that pass on their labels (default: 5)")
    add("--temperature", type=float, default=0.1, help="of the softmax over cosines (default: 0.1)")
    add("--num-heads", type=int, help="for files that do not record it")
    add("--pictures", action="store_true", help="also draw a strip for each video: the truth above what was found")
    options = parser.parse_args(argv)
    for name, least in (("short_side", 1), ("context", 0), ("radius", 0), ("top_k", 1)):
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')}: {least} or more, not {getattr(options, name)}")
    if not options.temperature > 0:
        raise UserError(f"--temperature: above 0, not {options.temperature}")
    return options


def load(options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(options.seed)
    build = build_trunk if options.untrained else open_trunk
    return build(options.weights, options.num_heads).to(default_device())


def peak_memory() -> float:
    """GiB that this process took at most, on the GPU where it ran there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    options = parse_args()
    videos, trunk = find_videos(options.davis, options.split), load(options)
    propagation = Propagation(options.context, options.radius, options.top_k, options.temperature)
    scores, start = [], time.perf_counter()
    for video in videos:
        begin, before = time.perf_counter(), len(scores)
        scores += evaluate_video(trunk, video, options.output / "masks", propagation, options.short_side)
        pace = (time.perf_counter() - begin) / len(video.frames)
        found = overall(scores[before:])
        figures = f"J&F {found['JF_mean']:.1f} (J {found['J_mean']:.1f}, F {found['F_mean']:.1f})"
        print(f"{video.name}: {len(video.frames)} frames, {pace:.2f} s a frame, {figures}", flush=True)
        if options.pictures:
            write_strip(video, options.output / "masks", options.output / "pictures" / f"{video.name}.png")
    metrics = overall(scores)
    settings = {
        "command": shlex.join(sys.argv),
        "short_side": options.short_side,
        **vars(propagation),
        "objects": {s.name: {"J": 100 * s.region.mean, "F": 100 * s.boundary.mean} for s in scores},
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_gib": round(peak_memory(), 2),
        "device": default_device(),
    }
    model = options.weights.stem + (" (untrained)" if options.untrained else "")
    dataset = dataset_name(options.davis, options.split, videos)
    path = write_result(options.output, "video", dataset, model, metrics, settings)
    print(f"J&F {metrics['JF_mean']:.1f}, J {metrics['J_mean']:.1f}, F {metrics['F_mean']:.1f}: {path}")


if __name__ == "__main__":
    run_main(main)
