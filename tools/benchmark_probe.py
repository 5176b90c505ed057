#!/usr/bin/env python3
"""What keeping features saves: the linear probe as tools/linear_probe.py does it, against the plain way.

    tools/benchmark_probe.py --images 96 --epochs 10

Plain: every step reads its images and runs the trunk, as a linear evaluation without a cache does. Both train the same
classifiers of one sweep on the same batches, in turn, in this process, so the plain way needs one pass an epoch only;
it would need one more for each classifier that is trained on its own. Images are random JPEGs of 500 x 375.
On a CPU, time is the processor's, which other programs on it hardly change; run with OMP_NUM_THREADS=1.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from pretrain.errors import run_main
from pretrain.evaluation.arguments import positive
from pretrain.evaluation.feature_cache import Reading, cached_features
from pretrain.evaluation.features import pooled_layers, square_batches
from pretrain.evaluation.framing import Squares
from pretrain.evaluation.labelled import LabelledImages, labelled_folder
from pretrain.evaluation.linear_probe import evaluate_probes, sweep, train_probes
from pretrain.files import write_json
from pretrain.models.vit import VisionTransformer

SETTINGS = sweep(["cls"])
BATCH = 32


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=96, help="for training; a third of it for validation")
    parser.add_argument("--epochs", type=positive, default=10, help="(default 10; VISSL trains for 28)")
    parser.add_argument("--image-size", type=positive, default=224, metavar="PX")
    parser.add_argument("--pairs", type=positive, default=3, help="measurements (default 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args(argv)


class LiveFeatures:
    """What `Features` is to `train_probes`, without keeping anything but the batch at hand."""

    def __init__(self, trunk: VisionTransformer, images: LabelledImages, image_size: int, device: str):
        self.trunk, self.squares, self.device = trunk, Squares(images, range(len(images)), image_size), device
        self.labels, self.values = images.labels, torch.empty(0, trunk.embed_dim)
        self.which = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, pool: str, layers: int, which: torch.Tensor, view: int = 0) -> torch.Tensor:
        if which is not self.which:
            batch = [which.tolist()]
            ((pixels, _),) = square_batches(self.squares, self.device, batches=batch)
            self.which, self.pooled = which, pooled_layers(self.trunk, pixels, 4, [pool])
        return self.pooled[:, 0, -layers:].flatten(1)


def write_images(folder: Path, count: int, rng: np.random.Generator) -> LabelledImages:
    for i in range(count):
        path = folder / f"class{i % 4}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC))
    return labelled_folder(folder)


def accuracies(train, val, args: argparse.Namespace) -> list[float]:
    probes = train_probes(train, 4, SETTINGS, args.epochs, BATCH, device=args.device)
    return [result.top1 for result in evaluate_probes(probes, val, BATCH)]


def main() -> None:
    args = parse_args()
    torch.manual_seed(0)
    trunk = VisionTransformer(field_size=14, layer_scale=1.0).eval().to(args.device)  # ViT-S/16
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    ours, plain, differences = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        rng = np.random.default_rng(0)
        counts = {"train": args.images, "val": max(4, args.images // 3)}
        images = [write_images(Path(scratch, split), count, rng) for split, count in counts.items()]
        for pair in range(args.pairs):
            start = clock()
            reading = Reading(args.image_size, pools=("cls",))
            kept = [cached_features(trunk, split, reading, Path(scratch, f"kept{pair}"), BATCH) for split in images]
            cached = accuracies(*kept, args)
            middle = clock()
            live = accuracies(*(LiveFeatures(trunk, split, args.image_size, args.device) for split in images), args)
            ours.append(middle - start)
            plain.append(clock() - middle)
            differences.append(max(abs(a - b) for a, b in zip(cached, live, strict=True)))
            print(
                f"kept {ours[-1]:.2f} s, plain {plain[-1]:.2f} s: {plain[-1] / ours[-1]:.1f} times as fast", flush=True
            )
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    figures = {"ours": statistics.median(ours), "plain": statistics.median(plain), "ratio": statistics.median(ratios)}
    figures |= {"spread": [min(ratios), max(ratios)], "top1_difference": max(differences)}
    figures |= {"what": f"ViT-S/16 at {args.image_size}, {counts}, {args.epochs} epochs, {len(SETTINGS)} classifiers"}
    print(json.dumps(figures))
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    run_main(main)
