"""COCO-format datasets from a json file and an image folder, for LazyConfig files, without manual registration."""

import hashlib
import importlib.util
import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils import comm

from cropfield.coco_checks import checked_coco
from cropfield.coco_files import repaired_copy
from cropfield.image_files import check_image_files
from cropfield.joined import Paths, folders_of, is_several, join, several
from cropfield.mask_checks import Faults, has_mask
from pretrain.data.coco import Image, Runs
from pretrain.data.reading import AS_RGB, MAX_PIXELS, Reading, ValueRange
from pretrain.errors import UserError
from pretrain.ranges import Channels, Count

logger = logging.getLogger(__name__)


def dataset_name(
    json_file: Paths,
    images: Paths,
    otherwise: str,
    max_pixels: Count = MAX_PIXELS,
    channels: Channels = 3,
    value_range: ValueRange | None = None,
) -> str:
    """Detectron2's name of the dataset; the first call checks and registers it.

    Args:
        json_file: COCO-format annotations; "" selects the dataset `otherwise`. A list of files, or a pattern, is joined
            into one dataset; see `cropfield.joined`.
        images: folder that the file names in `json_file` are relative to; for several files, one folder for all or one
            for each.
        otherwise: name of a registered dataset.
        max_pixels, channels, value_range: how its images will be read; see `Reading`.

    Raises:
        UserError: the dataset cannot be used for training or evaluation; see `check_coco_file`.
    """
    if json_file == "":
        return otherwise
    if not json_file:
        raise UserError(f'dataset.train_json or val_json is {json_file!r}: give an annotation file, several, or ""')
    files, is_one = several(json_file), not is_several(json_file)
    folders = folders_of(files, images)
    digest = hashlib.sha256("\n".join([*files, *folders]).encode()).hexdigest()[:8]
    name = f"{Path(files[0]).stem}-{'' if is_one else f'and-{len(files) - 1}-more-'}{digest}"
    if name not in DatasetCatalog.list():
        reading = Reading(max_pixels, channels, value_range)
        for file, folder in zip(files, folders, strict=True):
            check_coco_file(file, folder, reading)
        readable = _facts(files[0]).readable if is_one else _join(files, folders)
        register_coco_instances(name, {}, readable, folders[0] if is_one else "")
        MetadataCatalog.get(name).thing_classes = class_names(json_file)
    return name


def _join(files: list[str], folders: list[str]) -> str:
    joined = join(files, folders, [checked_coco(file).content for file in files])
    logger.info("%d annotation files joined into one dataset, %s", len(files), joined)
    return joined


def num_classes(json_file: Paths, otherwise: int) -> int:
    """Number of categories in a COCO file, or in each of several; `otherwise` if `json_file` is ""."""
    return len(class_names(json_file)) if json_file else otherwise


def has_masks(json_file: Paths, otherwise: bool = True) -> bool:
    """Whether the objects of a COCO file have masks; `otherwise` if `json_file` is "".

    Raises:
        UserError: only some objects have a mask, so a mask head cannot be trained.
    """
    if not json_file:
        return otherwise
    with_mask, objects = map(sum, zip(*(_facts(file).masks for file in several(json_file)), strict=True))
    if 0 < with_mask < objects:
        raise UserError(
            f'{json_file}: {objects - with_mask} of {objects} annotations have no "segmentation"; give every object '
            "one, or use a box-only config (configs/COCO/faster_rcnn_*.py)"
        )
    return with_mask > 0


def mask_features(json_file: Paths, features: list[str]) -> list[str] | None:
    """`mask_in_features` of the ROI heads: `features`, or None (no mask head) if the training file has no masks."""
    return list(features) if has_masks(json_file) else None


def evaluation_tasks(train_json: Paths, val_json: Paths) -> tuple[str, ...]:
    """COCO's tasks ("bbox", "segm"). Given explicitly, because an evaluator cannot infer them without any
    prediction.
    """
    return ("bbox", "segm") if has_masks(train_json) and has_masks(val_json) else ("bbox",)


def class_names(json_file: Paths) -> list[str]:
    """Category names sorted by id, which is the order of Detectron2's contiguous ids; of several files, the first
    one's.
    """
    return list(_facts(several(json_file)[0]).class_names)


class _Facts(NamedTuple):
    """What callers need from an annotation file, so that it is read once. readable: the file, or its repaired copy."""

    class_names: tuple[str, ...]
    masks: tuple[int, int]  # number of annotations with a mask, and of all
    images: tuple[Image, ...]
    repaired: Faults
    harmless: Faults
    unmeasurable: str | None
    polygons: bool
    run_lengths: bool
    most: int  # largest number of objects in an image
    readable: str


def _facts(json_file: str) -> _Facts:
    try:
        stamp = os.stat(json_file).st_mtime_ns
    except (OSError, ValueError):
        stamp = 0  # reading it will raise the error
    return _read_facts(json_file, stamp)


@lru_cache(maxsize=8)
def _read_facts(json_file: str, stamp: int) -> _Facts:
    checked = checked_coco(json_file)
    content = checked.content
    return _Facts(
        class_names=tuple(category.name for category in sorted(content.categories, key=lambda entry: entry.id)),
        masks=(sum(map(has_mask, content.annotations)), len(content.annotations)),
        images=tuple(content.images),
        repaired=checked.repaired,
        harmless=checked.harmless,
        unmeasurable=checked.unmeasurable,
        most=max(Counter(a.image_id for a in content.annotations if not a.iscrowd).values(), default=0),
        polygons=any(isinstance(annotation.segmentation, list) for annotation in content.annotations),
        run_lengths=any(isinstance(annotation.segmentation, Runs) for annotation in content.annotations),
        readable=repaired_copy(content, json_file) if checked.repaired.counts else json_file,
    )


def check_mask_format(json_file: Paths, mask_format: str) -> None:
    """Raise UserError if masks are given as run lengths and are to be read as polygons."""
    if mask_format == "polygon" and (file := next((f for f in several(json_file) if _facts(f).run_lengths), None)):
        raise UserError(
            f"{file} has masks as run lengths, which no polygon is made of: leave "
            'dataloader.train.mapper.instance_mask_format="bitmask"'
        )


def most_objects(json_file: Paths) -> int:
    """The largest number of objects in one image, without crowds."""
    return max(_facts(file).most for file in several(json_file))


def check_registered(names: str | Sequence[str]) -> None:
    """Raise UserError unless each of `names` is a registered dataset and its annotation file exists."""
    for name in [names] if isinstance(names, str) else names:
        _check_registered(name)


def _check_registered(name: str) -> None:
    if name not in DatasetCatalog.list():
        raise UserError(f"Detectron2 knows no dataset {name!r}; register it, or give dataset.train_json and the like")
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file and not os.path.isfile(json_file):
        raise UserError(
            f"the dataset {name} is not on this machine (no {json_file}): set DETECTRON2_DATASETS to the folder that "
            "contains it, or give your own with dataset.train_json, train_images, val_json and val_images"
        )


def check_same_categories(train_json: Paths, val_json: Paths) -> None:
    """Raise UserError unless both files have the same category names, in the order of their ids."""
    if class_names(train_json) != class_names(val_json):
        raise UserError(
            f"{val_json} and {train_json} have different categories: a detector trained on one cannot be evaluated on "
            "the other; write the same `categories` into both files"
        )


def check_can_be_evaluated(json_file: Paths) -> None:
    """Raise UserError if an annotation's area would make COCO's AP wrong."""
    for fault in filter(None, (_facts(file).unmeasurable for file in several(json_file))):
        raise UserError(fault)


def read_coco_file(json_file: Paths) -> dict:
    """Read, repair and check a COCO annotation file -> plain dicts; UserError as from `checked_coco`.

    For several files only the categories of the first are returned: image ids are unique within one file only.
    """
    content = msgspec.to_builtins(checked_coco(several(json_file)[0]).content)
    return content | {"images": [], "annotations": []} if is_several(json_file) else content


def check_coco_file(json_file: str, images: str, reading: Reading = AS_RGB) -> Counter:
    """Check a COCO-format dataset before it is used.

    Faults that prevent training raise an error; repairs, and what training skips or clips, are counted and logged.

    Returns:
        Number of repairs and harmless faults, by description.

    Raises:
        UserError: see `cropfield.coco_checks.checked_coco` and `cropfield.image_files.check_image_files`.
    """
    json_file = os.path.abspath(json_file)
    facts = _facts(json_file)
    faults, first = facts.repaired.counts + facts.harmless.counts, facts.repaired.first | facts.harmless.first
    if comm.is_main_process():  # the others would read the same headers
        turned = check_image_files(json_file, facts.images, images, reading)
        if turned:
            words = "images that EXIF turns, whose sizes do not tell if boxes are of the upright image (taken as such)"
            faults[words] = turned
    if facts.polygons and importlib.util.find_spec("shapely") is None:
        raise UserError(f"{json_file} has polygon masks, and Detectron2 crops those with shapely: pip install shapely")
    for fault, count in faults.items():
        logger.warning("%s: %d %s%s", json_file, count, fault, f"; first {first[fault]}" if fault in first else "")
    if facts.repaired.counts:
        logger.warning("%s: training and evaluation use a repaired copy, %s", json_file, facts.readable)
    return faults
