"""`projects/Lab/tools/benchmark.py data`: our multi-crop against Pillow's and torchvision's, from JPEG files, on one thread.

Ours hands out uint8 crops with their boxes, ready for `collate`; the plain one normalised float32 crops. Time is this
thread's own (CPU time), so that images a second are images a second and core; for worker processes it is the wall's.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from lab.benchmarks.comparison import Comparison, compare
from lab.benchmarks.plain_data import PlainMultiCrop
from lab.benchmarks.time_by_part import seconds_by_part
from lab.compose.photographs import shipped_photographs
from pretrain.data import augment, crops, folder
from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.folder import ImageFolder
from pretrain.data.masks import CropMasks

QUALITY = 95  # of the JPEGs
BATCH = 16
PARTS = {  # of our pipeline, and where each is looked up
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
    """Images of ImageNet's usual size, and photographs of 12 megapixels; where the time goes; worker processes."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        small, large = Path(place, "small"), Path(place, "large")
        write_photographs(small, 32, 500, 375)
        write_photographs(large, 2, 4000, 3000)
        usual = compare_crops(small, 32, options.pairs or 15, "multi-crop of 500 x 375 JPEGs")
        usual.tables["where the time of ours goes"] = where_the_time_goes(small)
        usual.tables["worker processes"] = worker_scaling(small)
        return [usual, compare_crops(large, 2, min(options.pairs or 3, 3), "multi-crop of 4000 x 3000 JPEGs")]


def write_photographs(place: Path, count: int, width: int, height: int) -> None:
    """`count` JPEGs of that size: pieces of the photographs that scikit-image and scikit-learn ship."""
    place.mkdir()
    rng, photographs = np.random.default_rng(0), [p.pixels for p in shipped_photographs(1000)]
    for number in range(count):
        pixels = photographs[number % len(photographs)]
        most = min(pixels.shape[1] / width, pixels.shape[0] / height)
        w, h = (int(side * most * rng.uniform(0.6, 1)) for side in (width, height))
        x, y = rng.integers(pixels.shape[1] - w + 1), rng.integers(pixels.shape[0] - h + 1)
        piece = Image.fromarray(pixels[y : y + h, x : x + w]).resize((width, height), Image.Resampling.LANCZOS)
        piece.save(place / f"{number:03}.jpg", quality=QUALITY)


def compare_crops(place: Path, images: int, pairs: int, name: str) -> Comparison:
    """Seconds of a pass over `images` files; new random numbers in each pass."""
    source, ours, plain = ImageFolder(place), MultiCrop(), PlainMultiCrop()
    passes = iter(range(10**9))

    def run_ours() -> None:
        seed = next(passes)
        for index in range(images):
            ours(source.load(index, ours.min_pixels), np.random.default_rng((seed, index)))

    def run_plain() -> None:
        for index in range(images):
            plain(str(place / source.name(index)))

    kilobytes = sum(file.stat().st_size for file in place.iterdir()) / len(source) / 1e3
    what = {"images": images, "jpeg_quality": QUALITY, "kilobytes_per_file": round(kilobytes, 1)}
    what |= {"threads": 1, "clock": "CPU time"}
    result = compare(name, run_ours, run_plain, pairs, what, clock=time.thread_time)
    rates = {"ours": images / result.ours, "plain": images / result.plain}
    result.tables["images a second and core"] = [
        {"": name, "images/s": rate, "ms an image": 1e3 / rate} for name, rate in rates.items()
    ]
    return result


def where_the_time_goes(place: Path, batches: int = 8) -> list[dict]:
    """Share of each part in making batches, masks and collating included."""
    dataset = CropLoader(ImageFolder(place), MultiCrop(), CropMasks((14, 14)), BATCH).dataset
    dataset[0, 0, 1]  # warm-up

    def make_batches() -> None:
        for step in range(1, batches + 1):
            dataset[step, 0, 1]

    parts, total = seconds_by_part(make_batches, PARTS)
    parts["masks, planes, collate, random numbers, the rest"] = (total - sum(s for s, _ in parts.values()), batches)
    images = batches * BATCH
    return [
        {
            "part": part,
            "ms an image": 1e3 * seconds / images,
            "calls an image": calls / images,
            "share": seconds / total,
        }
        for part, (seconds, calls) in parts.items()
    ]


def worker_scaling(place: Path, batches: int = 12) -> list[dict]:
    """Images a second that arrive in the main process, and the bytes of an image that cross over to it."""
    rows = []
    for workers in (0, 1, 2):
        loader = CropLoader(ImageFolder(place), MultiCrop(), CropMasks((14, 14)), BATCH, workers)
        stream = loader.batches()
        for _ in range(2 * workers + 1):  # the workers' start, and what they have made ahead
            batch = next(stream)
        start = time.perf_counter()
        for _ in range(batches):
            batch = next(stream)
        rate = batches * BATCH / (time.perf_counter() - start)
        stream.close()
        size = {kind: _bytes(batch, kind) / BATCH for kind in (torch.uint8, None)}
        rows.append({"workers": workers, "images/s": rate, "kB of pixels an image": size[torch.uint8] / 1e3})
        rows[-1]["kB an image, all of it"] = size[None] / 1e3
        rows[-1]["as float32, kB"] = 4 * size[torch.uint8] / 1e3
    return rows


def _bytes(batch: dict, dtype: torch.dtype | None) -> int:
    tensors = [value for value in batch.values() if torch.is_tensor(value)]
    return sum(t.numel() * t.element_size() for t in tensors if dtype in (None, t.dtype))
