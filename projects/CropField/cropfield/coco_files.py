"""COCO annotations and detections for drawing, and repaired copies for tools that read plain COCO files only."""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from pycocotools import mask as rle

from cropfield.drawing import Instance
from pretrain.data.coco import CocoFile
from pretrain.errors import UserError
from pretrain.files import replacing


@dataclass(frozen=True)
class CocoImages:
    """Images of a COCO file.

    entries: images by id. truth: annotations without crowds, by image id. names: category names by category id, sorted
    by id.
    """

    folder: Path
    entries: dict[int, dict]
    truth: dict[int, list[dict]]
    names: dict[int, str]

    def path(self, image_id: int) -> Path:
        return self.folder / self.entries[image_id]["file_name"]

    def instances(self, image_id: int, annotations: list[dict]) -> list[Instance]:
        """Convert annotations or detections of one image for drawing."""
        entry, order = self.entries[image_id], list(self.names)
        return [
            Instance(
                box=_corners(annotation["bbox"]),
                category=order.index(annotation["category_id"]),
                name=self.names[annotation["category_id"]],
                mask=decode_mask(annotation.get("segmentation"), entry["height"], entry["width"]),
                score=annotation.get("score"),
            )
            for annotation in annotations
        ]


def coco_images(content: dict, folder: Path) -> CocoImages:
    """Index a COCO file's content; `folder` contains the image files."""
    entries = {entry["id"]: entry for entry in content["images"]}
    truth = {image_id: [] for image_id in entries}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd") and annotation["image_id"] in truth:
            truth[annotation["image_id"]].append(annotation)
    names = {category["id"]: category["name"] for category in sorted(content["categories"], key=lambda c: c["id"])}
    return CocoImages(folder, entries, truth, names)


def spread_out(coco: CocoImages, count: int) -> list[int]:
    """`count` ids of images with objects, evenly spaced through the file, so that the choice is independent of any
    result.
    """
    ids = [image_id for image_id in sorted(coco.entries) if coco.truth[image_id]]
    places = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))
    return [ids[place] for place in places]


def decode_mask(segmentation, height: int, width: int) -> np.ndarray | None:
    """COCO polygons or run lengths, compressed or not -> bool (height, width), or None without a mask."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        segmentation = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, height, width)
    return rle.decode(segmentation).astype(bool)


def area_of(annotation: dict) -> float:
    """Area in square pixels of a detection's mask (run lengths), or of its box if it has no mask, as COCO's tools
    expect.
    """
    if annotation.get("segmentation"):
        return float(rle.area(annotation["segmentation"]))
    return annotation["bbox"][2] * annotation["bbox"][3]


def _corners(bbox: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return x, y, x + width, y + height


def repaired_copy(content: CocoFile, json_file: str) -> str:
    """Write `content` to a file that Detectron2 and COCO's evaluation can read; returns its path.

    The file is in the user's cache, or in a temporary folder if the cache is not writable. Its name is a hash of the
    content, so that concurrent processes write the same file.
    """
    try:
        data = msgspec.json.encode(content)
    except UnicodeEncodeError:  # a file name that is not UTF-8
        data = json.dumps(msgspec.to_builtins(content)).encode()
    name = f"{Path(json_file).stem}-{hashlib.sha256(data).hexdigest()[:16]}.json"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cropfield")
    try:
        return _keep(data, cache / name)
    except UserError:
        return _keep(data, Path(tempfile.mkdtemp(prefix="cropfield-"), name))


def _keep(data: bytes, path: Path) -> str:
    if not path.is_file():
        with replacing(path) as draft:
            draft.write_bytes(data)
    return str(path)
