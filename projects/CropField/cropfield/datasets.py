"""Any COCO-format dataset, from a json file and an image folder, for LazyConfig files: nothing to register by hand."""

import hashlib
import importlib.util
import json
import logging
import math
import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from pretrain.errors import UserError

logger = logging.getLogger(__name__)

_REQUIRED = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox", "id"),
}
_FOR_AP = ("area", "iscrowd")  # pycocotools reads them in every annotation


def dataset_name(json_file: str, images: str, otherwise: str) -> str:
    """The name under which Detectron2 knows the dataset; registers and checks it on the first call.

    Args:
        json_file: COCO-format annotations; "" means the dataset `otherwise`.
        images: folder that the file names in `json_file` are relative to.
        otherwise: name of a registered dataset.

    Raises:
        UserError: the dataset cannot be trained on or evaluated; see `check_coco_file`.
    """
    if not json_file:
        return otherwise
    json_file, images = os.path.abspath(json_file), os.path.abspath(images)
    digest = hashlib.sha256(f"{json_file}\n{images}".encode()).hexdigest()[:8]
    name = f"{Path(json_file).stem}-{digest}"
    if name not in DatasetCatalog.list():
        check_coco_file(json_file, images)
        register_coco_instances(name, {}, json_file, images)
        MetadataCatalog.get(name).thing_classes = class_names(json_file)
    return name


def num_classes(json_file: str, otherwise: int) -> int:
    """Number of categories in a COCO file; `otherwise` when `json_file` is ""."""
    return len(class_names(os.path.abspath(json_file))) if json_file else otherwise


def has_masks(json_file: str, otherwise: bool = True) -> bool:
    """Whether the objects of a COCO file have masks; `otherwise` when `json_file` is "".

    Raises:
        UserError: some objects have a mask and some have none, which a mask head cannot be trained on.
    """
    if not json_file:
        return otherwise
    with_mask, objects = _facts(os.path.abspath(json_file)).masks
    if 0 < with_mask < objects:
        raise UserError(
            f'{json_file}: {objects - with_mask} of {objects} annotations have no "segmentation"; give every object '
            "one, or use a box-only config (configs/COCO/faster_rcnn_*.py)"
        )
    return with_mask > 0


def mask_features(json_file: str, features: list[str]) -> list[str] | None:
    """`mask_in_features` of the ROI heads: `features`, or None (no mask head) where the training file has no masks."""
    return list(features) if has_masks(json_file) else None


def evaluation_tasks(train_json: str, val_json: str) -> tuple[str, ...]:
    """COCO's tasks by name: without a single prediction an evaluator could not tell them from the predictions."""
    return ("bbox", "segm") if has_masks(train_json) and has_masks(val_json) else ("bbox",)


def class_names(json_file: str) -> list[str]:
    """Category names in the order of their ids, which is the order of Detectron2's contiguous ids."""
    return list(_facts(json_file).class_names)


class _Facts(NamedTuple):
    """What configs ask of an annotation file, so that the file is read once."""

    class_names: tuple[str, ...]
    masks: tuple[int, int]  # annotations with a mask, annotations


@lru_cache
def _facts(json_file: str) -> _Facts:
    content = read_coco_file(json_file)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    masks = sum(bool(annotation.get("segmentation")) for annotation in content["annotations"])
    return _Facts(tuple(category["name"] for category in categories), (masks, len(content["annotations"])))


def check_registered(name: str) -> None:
    """Raise UserError unless `name` is a dataset that Detectron2 knows and whose annotation file is there."""
    if name not in DatasetCatalog.list():
        raise UserError(f"Detectron2 knows no dataset {name!r}; register it, or give dataset.train_json and the like")
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file and not os.path.isfile(json_file):
        raise UserError(
            f"the dataset {name} is not on this machine (no {json_file}): set DETECTRON2_DATASETS to the folder that "
            "holds it, or give your own by dataset.train_json, train_images, val_json and val_images"
        )


def check_same_categories(train_json: str, val_json: str) -> None:
    """Raise UserError unless both files number the same categories in the same way."""
    if class_names(os.path.abspath(train_json)) != class_names(os.path.abspath(val_json)):
        raise UserError(
            f"{val_json} and {train_json} have different categories: a detector trained on one cannot be evaluated on "
            "the other; write the same `categories` into both files"
        )


def check_can_be_evaluated(json_file: str) -> None:
    """Raise UserError where an annotation lacks a key that only COCO's AP needs."""
    for annotation in read_coco_file(json_file)["annotations"]:
        for key in _FOR_AP:
            if key not in annotation:
                raise UserError(
                    f'{json_file}: annotation {annotation["id"]} has no "{key}", which COCO\'s AP needs; write it into '
                    "every annotation (area in square pixels, iscrowd 0 for a single object)"
                )


def read_coco_file(json_file: str) -> dict:
    """A COCO annotation file with the parts and keys that detection needs, or UserError."""
    try:
        with open(json_file, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"cannot read the annotation file {json_file}: {error.strerror}; check the path") from None
    except ValueError as error:
        raise UserError(f"{json_file} is not whole JSON ({error}); copy or write it again") from None
    for part, keys in _REQUIRED.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f'{json_file} has no list "{part}": it is not a COCO annotation file for detection')
        for key in keys:
            broken = next((e for e in entries if not isinstance(e, dict) or key not in e), None)
            if broken is not None:
                raise UserError(f'{json_file}: an entry of "{part}" has no "{key}": {str(broken)[:80]}')
    return content


def check_coco_file(json_file: str, images: str) -> Counter:
    """Check a COCO-format dataset before any work is done with it.

    What cannot be trained on raises; what training merely skips or clips is counted and logged.

    Returns:
        counts of harmless faults.

    Raises:
        UserError: a file that cannot be read, missing parts or keys, no annotation at all, the same id twice, an
            absent image, an annotation of an unknown category, a box that is not four finite numbers, "ignore".
    """
    content = read_coco_file(json_file)
    if not content["annotations"]:
        raise UserError(f"{json_file} has no annotations: there is nothing to learn or to measure; check the file")
    if not content["categories"]:
        raise UserError(f'{json_file} has an empty list "categories"; name the classes that its annotations use')
    for part in _REQUIRED:
        _check_ids(json_file, part, [entry["id"] for entry in content[part]])
    _check_images(json_file, content["images"], images)
    polygons = any(isinstance(annotation.get("segmentation"), list) for annotation in content["annotations"])
    if polygons and importlib.util.find_spec("shapely") is None:
        raise UserError(f"{json_file} has polygon masks, and Detectron2 crops those with shapely: pip install shapely")
    faults = _check_annotations(json_file, content)
    for fault, count in faults.items():
        logger.warning("%s: %d %s", json_file, count, fault)
    return faults


def _check_ids(json_file: str, part: str, ids: list) -> None:
    twice = next((key for key, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise UserError(f'{json_file}: id {twice} stands for more than one entry of "{part}"; number them anew')
    if part == "categories" and sorted(ids) != list(range(1, len(ids) + 1)):
        logger.info("%s: category ids are not 1 to %d; classes are taken in the order of the ids", json_file, len(ids))


def _check_images(json_file: str, entries: list[dict], folder: str) -> None:
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder; give the folder that holds the images of {json_file}")
    absent = [entry["file_name"] for entry in entries if not os.path.isfile(os.path.join(folder, entry["file_name"]))]
    if absent:
        raise UserError(
            f"{len(absent)} of {len(entries)} images of {json_file} are not in {folder}, {absent[0]} first; give the "
            "folder that its file names are relative to"
        )


def _check_annotations(json_file: str, content: dict) -> Counter:
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    known = {category["id"] for category in content["categories"]}
    faults = Counter()
    for annotation in content["annotations"]:
        if annotation["category_id"] not in known:
            raise UserError(
                f'{json_file}: an annotation has category_id {annotation["category_id"]}, which "categories" does not '
                "list; add the category or remove the annotation"
            )
        if annotation.get("ignore"):
            raise UserError(
                f'{json_file}: annotation {annotation["id"]} is marked "ignore", which Detectron2 refuses; remove it, '
                'or mark it "iscrowd"'
            )
        x, y, width, height = _box(json_file, annotation["bbox"])
        if annotation["image_id"] not in sizes:
            faults["annotations of images that the file does not list (ignored)"] += 1
        elif not (width > 0 and height > 0):
            faults["boxes without area (dropped in training)"] += 1
        elif (image := sizes[annotation["image_id"]]) and (
            x >= image[0] or y >= image[1] or x + width <= 0 or y + height <= 0
        ):
            faults["boxes wholly outside their image (dropped in training)"] += 1
        elif x < -1 or y < -1 or x + width > image[0] + 1 or y + height > image[1] + 1:
            faults["boxes that reach beyond their image (clipped)"] += 1
    return faults


def _box(json_file: str, bbox) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError):
        raise UserError(f"{json_file}: a bbox is not four numbers: {bbox}; write [x, y, width, height]") from None
    if not all(map(math.isfinite, (x, y, width, height))):
        raise UserError(f"{json_file}: a bbox is not finite: {bbox}; correct or remove that annotation")
    return x, y, width, height
