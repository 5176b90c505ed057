"""`benchmark.py data`: our multi-crop against Pillow's and torchvision's, from JPEG files, on one thread.

Ours returns uint8 crops with boxes, ready for `collate`; the plain one normalised float32 crops. Times are CPU times of
this thread, so rates are per core; with worker processes, wall time.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from lab.benchmarks.comparison import Comparison, compare, seconds_by_part
from lab.compose.photographs import shipped_photographs
from pretrain.data import IMAGE_MEAN, IMAGE_STD, augment, crops, folder
from pretrain.data.augment import BLUR_PROBS
from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.folder import ImageFolder
from pretrain.data.masks import CropMasks

QUALITY = 95  # of the JPEGs
BATCH = 16
PARTS = {  # of our pipeline: where each function is looked up
    "read and decode": (folder, "decode_image"),
    "draw boxes": (crops, "random_resized_crop_box"),
    "boxes in the field": (crops, "place_in_field"),
    "crop and resize": (crops, "resize_crop"),
    "brightness": (augment, "adjust_brightness"),
    "contrast": (augment, "adjust_contrast"),
    "saturation": (augment, "adjust_saturation"),
    "hue": (augment, "adjust_hue"),
    "grey": (augment, "to_grey"),
    "blur": (augment, "gaussian_blur"),
    "solarise": (augment, "solarize"),
}


def run(options: argparse.Namespace) -> list[Comparison]:
    """Benchmark images of ImageNet's usual size and photographs of 12 megapixels, by part, and with worker
    processes.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch, "small"), Path(scratch, "large")
        write_photographs(small, 32, 500, 375)
        write_photographs(large, 2, 4000, 3000)
        usual = compare_crops(small, 32, options.pairs or 15, "multi-crop of 500 x 375 JPEGs")
        usual.tables["where the time of ours goes"] = time_of_parts(small)
        usual.tables["worker processes"] = [with_workers(small, workers) for workers in (0, 1, 2)]
        return [usual, compare_crops(large, 2, min(options.pairs or 3, 3), "multi-crop of 4000 x 3000 JPEGs")]


def write_photographs(root: Path, count: int, width: int, height: int) -> None:
    """Write `count` JPEGs of the given size, cut from photographs shipped with scikit-image and scikit-learn."""
    root.mkdir()
    rng, photographs = np.random.default_rng(0), [p.pixels for p in shipped_photographs(1000)]
    for number in range(count):
        pixels = photographs[number % len(photographs)]
        most = min(pixels.shape[1] / width, pixels.shape[0] / height)
        w, h = (int(side * most * rng.uniform(0.6, 1)) for side in (width, height))
        x, y = rng.integers(pixels.shape[1] - w + 1), rng.integers(pixels.shape[0] - h + 1)
        piece = Image.fromarray(pixels[y : y + h, x : x + w]).resize((width, height), Image.Resampling.LANCZOS)
        piece.save(root / f"{number:03}.jpg", quality=QUALITY)


def plain_view(
    size: int, scale: tuple[float, float], blur_prob: float, solarize_prob: float = 0.0
) -> Callable[[Image.Image], torch.Tensor]:
    """DINOv2's augmentation in torchvision: Pillow image -> random crop (3, size, size) float32, normalised.

    The tests use it as the statistical reference of each operation.
    """
    return transforms.Compose([
        transforms.RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([transforms.GaussianBlur(9, sigma=(0.1, 2.0))], p=blur_prob),
        transforms.RandomSolarize(threshold=128, p=solarize_prob),
        transforms.ToTensor(),
        transforms.Normalize([m / 255 for m in IMAGE_MEAN], [s / 255 for s in IMAGE_STD]),
    ])  # fmt: skip


class PlainMultiCrop:
    """Make a file's crops one after another: 2 global ones of 224 pixels, 8 local ones of 96; `blur` as in
    `dinov2_photometric`.
    """

    def __init__(self, blur: str = "effect"):
        first, further, local = BLUR_PROBS[blur]
        views = plain_view(224, (0.32, 1.0), first), plain_view(224, (0.32, 1.0), further, solarize_prob=0.2)
        self.views = [*views, *[plain_view(96, (0.05, 0.32), local)] * 8]

    def __call__(self, path: str) -> list[torch.Tensor]:
        """Ten float32 tensors, the global crops first."""
        image = Image.open(path).convert("RGB")
        return [view(image) for view in self.views]


def compare_crops(root: Path, images: int, num_pairs: int, name: str) -> Comparison:
    """Time a pass over `images` files, with new random numbers in each pass."""
    source, ours, plain, seeds = ImageFolder(root), MultiCrop(), PlainMultiCrop(), itertools.count()

    def run_ours() -> None:
        seed = next(seeds)
        for index in range(images):
            ours(source.load(index, ours.min_pixels), np.random.default_rng((seed, index)))

    def run_plain() -> None:
        for index in range(images):
            plain(str(root / source.name(index)))

    kilobytes = sum(file.stat().st_size for file in root.iterdir()) / len(source) / 1e3
    what = {"images": images, "jpeg_quality": QUALITY, "kilobytes_per_file": round(kilobytes, 1)}
    what |= {"threads": 1, "clock": "CPU time"}
    result = compare(name, run_ours, run_plain, num_pairs, what, time.thread_time)
    result.tables["images a second and core"] = [
        {"": side, "images/s": images / seconds, "ms an image": 1e3 * seconds / images}
        for side, seconds in (("ours", result.ours), ("plain", result.plain))
    ]
    return result


def time_of_parts(root: Path, batches: int = 8) -> list[dict]:
    """Fraction of time of each part in making batches, including masks and collation."""
    dataset, images = CropLoader(ImageFolder(root), MultiCrop(), CropMasks((14, 14)), BATCH).dataset, batches * BATCH
    dataset[0, 0, 1]  # warm-up
    parts, total = seconds_by_part(lambda: [dataset[step, 0, 1] for step in range(1, batches + 1)], PARTS)
    parts["masks, planes, collate, random numbers, the rest"] = (total - sum(s for s, _ in parts.values()), batches)
    return [
        {"part": part, "ms an image": 1e3 * spent / images, "calls an image": calls / images, "share": spent / total}
        for part, (spent, calls) in parts.items()
    ]


def with_workers(root: Path, workers: int, batches: int = 12) -> dict:
    """Images a second that arrive in the main process, and bytes transferred for each image."""
    stream = CropLoader(ImageFolder(root), MultiCrop(), CropMasks((14, 14)), BATCH, workers).batches()
    for _ in range(2 * workers + 1):  # skip the workers' start and prefetched batches
        batch = next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        batch = next(stream)
    rate = batches * BATCH / (time.perf_counter() - start)
    stream.close()
    tensors = [value for value in batch.values() if torch.is_tensor(value)]
    pixels = sum(t.nbytes for t in tensors if t.dtype == torch.uint8) / BATCH / 1e3
    row = {"workers": workers, "images/s": rate, "kB of pixels an image": pixels}
    return row | {"kB an image, all of it": sum(t.nbytes for t in tensors) / BATCH / 1e3, "as float32, kB": 4 * pixels}
