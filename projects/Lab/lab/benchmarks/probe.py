"""`benchmark.py probe`: what caching features saves in a linear probe.

Ours caches features as projects/Lab/tools/linear_probe.py does. The plain version reads the images and runs the
backbone in every step. Both train the same 40 classifiers on the same batches, so the plain version needs one pass for
each epoch; training the classifiers separately would need one for each of them. JPEGs of 500 x 375.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from lab.benchmarks.comparison import Comparison, compare, thread_clock
from lab.probes.feature_cache import Extraction, cached_features
from lab.probes.features import framed_batches, pooled_layers
from lab.probes.framing import FramedImages
from lab.probes.labelled import LabelledImages, labelled_folder
from lab.probes.linear_probe import evaluate_probes, sweep, train_probes
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer

SETTINGS = sweep(["cls"])
BATCH, EPOCHS = 32, 10  # VISSL uses 28 epochs; the plain version's time is proportional


def run(options: argparse.Namespace) -> list[Comparison]:
    """ViT-S/16 in float32, 24 training images (or --images) of 96 x 96 (or --image-size), 10 epochs."""
    side, other = options.image_size or (96, 96)
    if side != other or side % 16:
        raise UserError(
            f"--image-size {side}x{other}: the probe needs squares with a side that is a multiple of 16 pixels"
        )
    torch.manual_seed(0)
    backbone = VisionTransformer(field_size=14, layer_scale=1.0).eval()
    return [measure(backbone, options.images or 24, side, options.pairs or 3)]


def measure(backbone: VisionTransformer, count: int, side: int, num_pairs: int, epochs: int = EPOCHS) -> Comparison:
    """Compare both, with a table of the differences in accuracy, in percentage points."""
    top1, device = {}, "cuda" if torch.cuda.is_available() else "cpu"
    backbone = backbone.to(device)
    with tempfile.TemporaryDirectory() as scratch:
        rng = np.random.default_rng(0)
        counts = {"train": count, "val": max(4, count // 3)}
        images = [write_images(Path(scratch, split), number, rng) for split, number in counts.items()]
        folders = (Path(scratch, f"kept{number}") for number in itertools.count())  # a new one each time

        def ours() -> None:
            folder, extraction = next(folders), Extraction(side, pools=("cls",))
            kept = (cached_features(backbone, split, extraction, folder, BATCH) for split in images)
            top1["ours"] = accuracies(*kept, epochs, device)

        def plain() -> None:
            live = (LiveFeatures(backbone, split, side, device) for split in images)
            top1["plain"] = accuracies(*live, epochs, device)

        what = {"images": counts, "image_size": side, "epochs": epochs, "classifiers": len(SETTINGS)}
        clock, about = thread_clock()
        result = compare("linear probe, features kept", ours, plain, num_pairs, what | about, clock)
    differences = [abs(a - b) for a, b in zip(top1["ours"], top1["plain"], strict=True)]
    result.tables["accuracies of ours and plain"] = [{"largest difference, points": max(differences)}]
    return result


class LiveFeatures:
    """Replaces `Features` for `train_probes`, without keeping more than the current batch."""

    def __init__(self, backbone: VisionTransformer, images: LabelledImages, image_size: int, device: str):
        self.backbone, self.framed, self.device = backbone, FramedImages(images, range(len(images)), image_size), device
        self.labels, self.values = images.labels, torch.empty(0, backbone.embed_dim)
        self.which = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, pool: str, layers: int, which: torch.Tensor, view: int = 0) -> torch.Tensor:
        if which is not self.which:
            batch = [which.tolist()]
            ((pixels, _),) = framed_batches(self.framed, self.device, batches=batch)
            self.which, self.pooled = which, pooled_layers(self.backbone, pixels, 4, [pool])
        return self.pooled[:, 0, -layers:].flatten(1)


def write_images(folder: Path, count: int, rng: np.random.Generator) -> LabelledImages:
    for i in range(count):
        path = folder / f"class{i % 4}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC))
    return labelled_folder(folder)


def accuracies(train, val, epochs: int, device: str) -> list[float]:
    probes = train_probes(train, 4, SETTINGS, epochs, BATCH, device=device)
    return [result.top1 for result in evaluate_probes(probes, val, BATCH)]
