"""Images and targets of a detection probe: whole images of a COCO file, and the object at each patch."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cropfield.canvas import stretch
from cropfield.coco_files import CocoImages, coco_images, decode_mask, spread_out
from cropfield.datasets import check_can_be_evaluated, check_coco_file, check_same_categories, read_coco_file
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.data.decode import decode_image
from pretrain.data.reading import AS_RGB, Reading
from pretrain.errors import UserError
from pretrain.files import sha256

MOST_COMPARED = 100_000  # most pretraining files whose content is compared with the probe's

logger = logging.getLogger(__name__)


class PixelFormat(NamedTuple):
    """How images are read and normalised: a mean and deviation for each band."""

    mean: Sequence[float] = IMAGE_MEAN
    std: Sequence[float] = IMAGE_STD
    reading: Reading = AS_RGB


RGB = PixelFormat()


class ProbeImages:
    """Images with objects from a COCO file, resized to a longer side of `size` pixels and to whole patches.

    Args:
        limit: most images to use, evenly spaced through the file.
        size, patch: pixels; size is a multiple of patch.
        pixels: how they are read and normalised.

    Attributes:
        classes: for each image int16 (N,), the class of the object at each patch, len(names) for none
            (`patch_objects`).
        boxes: for each image float32 (N, 4), that object's box x0, y0, x1, y1 in [0, 1]; 0 for none.
        with_objects: the images with an object at one of their patches.
    """

    def __init__(self, json_file: str, folder: str, limit: int, size: int, patch: int, pixels: PixelFormat = RGB):
        content = read_coco_file(json_file)
        self.coco, self.size, self.patch = coco_images(content, Path(folder)), size, patch
        self.pixels = pixels
        self.ids = spread_out(self.coco, limit)
        chosen = set(self.ids)
        self.truth = {
            "images": [entry for entry in content["images"] if entry["id"] in chosen],
            "annotations": [a | {"bbox": [*a["bbox"]]} for a in content["annotations"] if a["image_id"] in chosen],
            "categories": content["categories"],
        }
        found = [patch_objects(self.coco, image_id, self.grid(image_id)) for image_id in self.ids]
        self.classes, self.boxes = [classes for classes, _ in found], [boxes for _, boxes in found]
        self.with_objects = [i for i, classes in enumerate(self.classes) if (classes < len(self.coco.names)).any()]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def contents(self) -> dict[str, Path]:
        """The image files by the SHA-256 of their bytes. Raises OSError."""
        return {sha256(self.path(index)): self.path(index) for index in range(len(self))}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the images' bytes and annotations. Raises OSError."""
        return hashlib.sha256(json.dumps([self.truth, [*self.contents]], sort_keys=True).encode()).hexdigest()

    def path(self, index: int) -> Path:
        return self.coco.path(self.ids[index])

    def sides(self, index: int) -> tuple[int, int]:
        """Height and width of the upright image."""
        entry = self.coco.entries[self.ids[index]]
        return entry["height"], entry["width"]

    def grid(self, image_id: int) -> tuple[int, int]:
        """Size (H, W) in patches."""
        sides = [self.coco.entries[image_id][side] for side in ("height", "width")]
        return tuple(max(1, round(side / max(sides) * self.size / self.patch)) for side in sides)

    def centres(self, index: int) -> Tensor:
        """Patch centres of an image, float64 (N, 2): see `centres`."""
        return torch.from_numpy(centres(self.grid(self.ids[index])))

    def targets(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each patch is on an object (N,), its class (N,) int64, and its box (N, 4) float64."""
        classes, boxes = torch.from_numpy(self.classes[index]).long(), torch.from_numpy(self.boxes[index]).double()
        return classes < len(self.coco.names), classes, boxes

    def load(self, index: int) -> Tensor:
        """Load normalised pixels (C, H*p, W*p), float32. Raises `BrokenImage`."""
        mean, std = (np.array(values, np.float32) for values in (self.pixels.mean, self.pixels.std))
        image = decode_image(self.path(index), reading=self.pixels.reading)
        height, width = (side * self.patch for side in self.grid(self.ids[index]))
        if image.shape[:2] != (height, width):
            image = stretch(image, width, height)
        return torch.from_numpy((image - mean) / std).permute(2, 0, 1)


def centres(grid: tuple[int, int]) -> np.ndarray:
    """Patch centres (H*W, 2) as (x, y), as fractions of the image, in row-major order."""
    y, x = (np.indices(grid).reshape(2, -1) + 0.5) / np.array(grid)[:, None]
    return np.stack([x, y], axis=1)


def patch_objects(coco: CocoImages, image_id: int, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Class (N,) and box (N, 4) of the object whose mask (or box, without a mask) contains each patch's centre.

    If there are several, the one with the smallest box is used, as it is usually on top.
    """
    entry, names = coco.entries[image_id], list(coco.names)
    size = np.array([entry["width"], entry["height"]])
    points = centres(grid)
    columns, rows = (points * size).astype(int).T
    classes, boxes = np.full(len(points), len(names), np.int16), np.zeros((len(points), 4), np.float32)
    for annotation in sorted(coco.truth[image_id], key=lambda a: -a["bbox"][2] * a["bbox"][3]):
        low = np.array(annotation["bbox"][:2])
        box = np.clip([low / size, (low + annotation["bbox"][2:]) / size], 0, 1)
        mask = decode_mask(annotation.get("segmentation"), entry["height"], entry["width"])
        inside = ((points >= box[0]) & (points < box[1])).all(1) if mask is None else mask[rows, columns]
        classes[inside], boxes[inside] = names.index(annotation["category_id"]), box.reshape(4)
    return classes, boxes


def check_probe_files(train_json: str, val_json: str) -> None:
    """Raise UserError unless both files can be read and have the same classes, and the second can be evaluated."""
    check_same_categories(train_json, val_json)
    check_can_be_evaluated(val_json)


def probe_images(
    train: tuple[str, str],
    val: tuple[str, str],
    limits: tuple[int, int],
    size: int,
    patch: int,
    pixels: PixelFormat = RGB,
) -> tuple[ProbeImages, ProbeImages]:
    """Load and check the probe's training and validation images.

    Args:
        train, val: annotation file and image folder.
        pixels: how they are read and normalised.

    Raises:
        UserError: a dataset cannot be trained on or evaluated, their classes differ, there are fewer than two training
            images or no object at a patch's centre, or `size` is not a multiple of the patch size.
    """
    if size % patch or size < patch:
        raise UserError(f"the detection probe's image size, {size}, is not a multiple of the backbone's patch, {patch}")
    for json_file, folder in (train, val):
        check_coco_file(json_file, folder, pixels.reading)
    check_probe_files(train[0], val[0])
    found = [ProbeImages(*files, limit, size, patch, pixels) for files, limit in zip((train, val), limits, strict=True)]
    for images, (json_file, _), least in zip(found, (train, val), (2, 1), strict=True):
        if len(images.with_objects) < least:
            raise UserError(
                f"{json_file}: the detection probe needs {least} images with an object at a patch's centre, but of the "
                f"{len(images)} it looked at {len(images.with_objects)} qualify; give more images, or a larger image "
                "size"
            )
    if len(found[1]) == 1:
        logger.warning(f"{val[0]}: the detection probe's AP is that of a single image, and says little")
    if both := found[0].contents.keys() & found[1].contents.keys():
        logger.warning(
            f"{val[0]}: {len(both):,} of the detection probe's {len(found[1]):,} validation images are training images "
            f"too, {found[1].contents[min(both)]} for example: its metrics are too high"
        )
    return found[0], found[1]


def tell_of_shared_images(files: Mapping[str, Path], source) -> None:
    """Log which of `files` are also in a run's own images (`source`), by content and by name; this is allowed.

    `files` are keyed by SHA-256, as `ProbeImages.contents`. Contents are compared only between files of equal size; in
    a source of more than 100,000 files, only for that many and for those with equal names; in tar shards not at all,
    which is logged.
    """
    path_of = getattr(source, "path", lambda index: None)
    own, count = {file.name for file in files.values()}, len(source)
    named = {index: name for index in range(count) if (name := os.path.basename(source.name(index))) in own}
    sizes, same, unknown = {*map(os.path.getsize, files.values())}, {}, {}  # the last: contents that are not compared
    for index in {*range(0, count, -(-count // MOST_COMPARED)), *named}:
        if (path := path_of(index)) is None:
            unknown[index] = named.get(index)
            continue
        with contextlib.suppress(OSError, ValueError):  # the loader counts unreadable files
            if os.path.getsize(path) in sizes and (file := files.get(sha256(path))):
                same[index] = file
    if same:
        logger.warning(
            f"detection probe: {len(set(same.values())):,} of its {len(files):,} images are also pretrained on, "
            f"{next(iter(same.values()))} for example: its metrics say less about unseen images"
        )
    if unknown:
        logger.info(
            "detection probe: the contents of its images are not compared with those in tar shards; "
            f"{len(set(unknown.values()) - {None}):,} of its images share a name with one there"
        )
    compared = {name for index, name in named.items() if index not in unknown}
    if names := compared - {file.name for file in same.values()}:
        logger.info(f"detection probe: {len(names):,} of its images share only their names with the run's")
