"""A split in COCO's format: JPEG files and one annotation file with run-length masks."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from lab.compose.scene import Scene


def write_images(scenes: Iterator[Scene], folder: Path) -> Iterator[tuple[str, Scene]]:
    """Write each scene's picture into `folder` as it comes; yields its file name and the scene."""
    folder.mkdir(parents=True)
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    for index, scene in enumerate(scenes):
        name = f"{index:06d}.jpg"
        _, data = cv2.imencode(".jpg", scene.image[..., ::-1], options)
        (folder / name).write_bytes(data)
        yield name, scene


def annotation_file(images: Iterator[tuple[str, Scene]], categories: list[str], description: str) -> dict:
    """The content of COCO's annotation file. Image, annotation and category ids count from 1."""
    content = {
        "info": {"description": description},
        "licenses": [],
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(categories, 1)],
    }
    for image_id, (name, scene) in enumerate(images, 1):
        height, width = scene.image.shape[:2]
        content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for category, mask in zip(scene.categories, scene.masks, strict=True):
            about = {"id": len(content["annotations"]) + 1, "image_id": image_id, "category_id": category + 1}
            content["annotations"].append(about | describe_mask(mask))
    return content


def describe_mask(mask: np.ndarray) -> dict:
    """`segmentation` (run lengths: exact, holes too), `bbox` (x, y, w, h) in pixels, `area`, `iscrowd`."""
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "segmentation": {"size": [int(n) for n in runs["size"]], "counts": runs["counts"].decode("ascii")},
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(mask.sum()),
        "iscrowd": 0,
    }


def write_json(content: dict, path: Path) -> None:
    """`content` as JSON in one line, its folder made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n")
