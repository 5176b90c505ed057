"""Check the content of a COCO file: repair what is unambiguous, refuse what cannot be trained on.

`pretrain.data.coco` checks types; this module checks what involves more than one value. For the image files see
`cropfield.image_files`.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from msgspec import UNSET

from cropfield.mask_checks import Faults, check_masks, has_mask, polygon_area
from pretrain.data.coco import Annotation, CocoFile, read_coco, shown
from pretrain.errors import UserError

NUMERAL = re.compile("-?[0-9]{1,18}")  # fits into 64 bits


@dataclass
class CheckedCoco:
    """A checked COCO file.

    repaired: what was repaired; if anything was, other readers must use a repaired copy of the file.
    harmless: what training skips or clips. unmeasurable: why COCO's AP cannot be computed, or None.
    """

    content: CocoFile
    repaired: Faults = field(default_factory=Faults)
    harmless: Faults = field(default_factory=Faults)
    unmeasurable: str | None = None


def checked_coco(json_file: str) -> CheckedCoco:
    """Read, repair and check a COCO annotation file.

    Raises:
        UserError: it cannot be trained on. For types and ranges see `pretrain.data.coco.read_coco`; here: empty lists,
            duplicate ids, text mixed with numeric ids, unknown categories, damaged masks, boxes as fractions of the
            image, "ignore", no object that a detector could learn.
    """
    content, unusual = read_coco(json_file)
    _check_filled(json_file, content)
    checked = CheckedCoco(content)
    if unusual:
        checked.repaired.counts[f"file that {unusual} (read nevertheless)"] = 1
    _number_entries(json_file, checked, "images", "image_id")
    _number_entries(json_file, checked, "categories", "category_id")
    _name_categories(checked)
    _number_annotations(json_file, checked)
    _check_sides(json_file, checked)
    _check_values(json_file, checked)
    sizes = {image.id: (image.width, image.height) for image in content.images}
    _count_files_named_twice(checked)
    empty = check_masks(json_file, content.annotations, sizes, checked.repaired)
    _fill_in(checked, sizes)
    checked.unmeasurable = _unmeasurable(json_file, content.annotations, sizes)
    _check_boxes(json_file, checked, sizes, empty)
    return checked


def _check_filled(json_file: str, content: CocoFile) -> None:
    if not content.images:
        raise UserError(f'{json_file} has an empty list "images"; list the images that its annotations are of')
    if not content.annotations:
        raise UserError(f"{json_file} has no annotations: there is nothing to learn or to measure; check the file")
    if not content.categories:
        raise UserError(f'{json_file} has an empty list "categories"; name the classes that its annotations use')


# --- ids


def _number_entries(json_file: str, checked: CheckedCoco, part: str, reference: str) -> None:
    """Make all ids integers, also in the annotations: numerals by value, other text by position, from 1."""
    entries, annotations = getattr(checked.content, part), checked.content.annotations
    kinds = {type(entry.id) for entry in entries} | {type(getattr(a, reference)) for a in annotations}
    if kinds != {int} or max(abs(entry.id) for entry in entries) >= 2**63:
        texts = [_text(entry.id) for entry in entries]
        _refuse_mixed(json_file, part, [entry.id for entry in entries])
        are_numbers = all(map(NUMERAL.fullmatch, texts))
        numbers = {text: int(text) if are_numbers else place for place, text in enumerate(texts, 1)}
        _refuse_duplicates(json_file, part, texts)
        unlisted = max(numbers.values()) + 1
        for entry, text in zip(entries, texts, strict=True):
            entry.id = numbers[text]
        for place, annotation in enumerate(annotations):
            key = getattr(annotation, reference)
            if part == "categories" and _text(key) not in numbers:
                raise _unknown_category(json_file, place, key)
            setattr(annotation, reference, numbers.get(_text(key), unlisted))
        how = "taken as numbers" if are_numbers else f"numbered 1 to {len(entries)} in the file's order"
        checked.repaired.counts[f"ids of {part} that are not whole numbers throughout ({how})"] = len(entries)
    _refuse_duplicates(json_file, part, [entry.id for entry in entries])


def _unknown_category(json_file: str, place: int, key: int | float | str) -> UserError:
    return UserError(
        f'{json_file}: annotations[{place}].category_id is {shown(key)}, none of the ids in "categories"; add the '
        "category or remove the annotation"
    )


def _text(key: int | float | str) -> str:
    """The same text for 7, 7.0, "7" and "007"."""
    if isinstance(key, float) and key.is_integer():
        return str(int(key))
    text = str(key).strip()
    return str(int(text)) if NUMERAL.fullmatch(text) else text


def _refuse_mixed(json_file: str, part: str, ids: list) -> None:
    words = [
        i for i, key in enumerate(ids) if isinstance(key, str | float) and not re.fullmatch("-?[0-9]+", _text(key))
    ]
    if words and (len(words) < len(ids) or isinstance(ids[words[0]], float)):
        others = "" if len(words) == len(ids) else f", and the ids of {part} are whole numbers elsewhere"
        raise UserError(
            f"{json_file}: {part}[{words[0]}].id is {shown(ids[words[0]])}{others}; give all of them whole numbers, or "
            "all of them names"
        )


def _refuse_duplicates(json_file: str, part: str, ids: list) -> None:
    if len(set(ids)) < len(ids):
        twice = next(key for key, count in Counter(ids).items() if count > 1)
        places = [place for place, key in enumerate(ids) if key == twice]
        raise UserError(
            f"{json_file}: {part}[{places[0]}] and {part}[{places[1]}] have the same id {twice}; number them anew, in "
            "the annotations too"
        )


def _number_annotations(json_file: str, checked: CheckedCoco) -> None:
    """Renumber annotations if needed: COCO's AP counts an object with id 0 as not found, and merges duplicate ids."""
    annotations = checked.content.annotations
    ids = [annotation.id for annotation in annotations]
    if {type(key) for key in ids} == {int} and min(ids) > 0 and max(ids) < 2**63 and len(set(ids)) == len(ids):
        return
    _refuse_mixed(json_file, "annotations", [key for key in ids if key is not UNSET and key is not None])
    for number, annotation in enumerate(annotations, 1):
        annotation.id = number
    checked.repaired.counts["annotations, some with missing, repeated or unusual ids (all numbered 1, 2, 3, ...)"] = (
        len(annotations)
    )


# --- values


def _check_sides(json_file: str, checked: CheckedCoco) -> None:
    for place, image in enumerate(checked.content.images):
        for side in ("height", "width"):
            value = getattr(image, side)
            if isinstance(value, float):
                if not value.is_integer():
                    raise UserError(f"{json_file}: images[{place}].{side} is {value}; write whole pixels")
                setattr(image, side, int(value))
                fault = "widths and heights of images with a decimal point (taken as whole numbers)"
                checked.repaired.note(fault, "images", place)


def _count_files_named_twice(checked: CheckedCoco) -> None:
    """Each entry has a part of the file's objects, say: a detector is then told that the others are background."""
    fault = "images whose file another image has as well (one's objects are background in the other; make them one)"
    seen = set()
    for place, image in enumerate(checked.content.images):
        if image.file_name in seen:
            checked.harmless.note(fault, "images", place)
        seen.add(image.file_name)


def _check_values(json_file: str, checked: CheckedCoco) -> None:
    """Check categories, iscrowd and "ignore"."""
    content = checked.content
    known = {category.id for category in content.categories}
    for place, annotation in enumerate(content.annotations):
        if annotation.category_id not in known:
            raise _unknown_category(json_file, place, annotation.category_id)
        if annotation.iscrowd is not UNSET:
            if annotation.iscrowd not in (0, 1):
                raise UserError(f"{json_file}: annotations[{place}].iscrowd is {annotation.iscrowd}; write 0 or 1")
            annotation.iscrowd = int(annotation.iscrowd)
        if annotation.ignore is not UNSET:
            if annotation.ignore not in (0, None):
                raise UserError(
                    f'{json_file}: annotations[{place}] is marked "ignore", which Detectron2 refuses; remove it, or '
                    'mark it "iscrowd"'
                )
            if annotation.ignore is None:  # Detectron2 fails on it
                checked.repaired.note('annotations whose "ignore" is null (left out)', "annotations", place)
            annotation.ignore = UNSET


def _name_categories(checked: CheckedCoco) -> None:
    """Make category names unique, because weights and AP tables identify classes by name."""
    categories = checked.content.categories
    while twice := {name for name, count in Counter(entry.name for entry in categories).items() if count > 1}:
        for place, category in enumerate(categories):
            if category.name in twice:
                category.name += f" (id {category.id})"
                fault = "categories with the name of another one (told apart by their ids)"
                checked.repaired.note(fault, "categories", place)


def _fill_in(checked: CheckedCoco, sizes: dict) -> None:
    for place, annotation in enumerate(checked.content.annotations):
        if annotation.image_id in sizes and annotation.iscrowd is UNSET:
            annotation.iscrowd = 0
            checked.repaired.note('annotations without "iscrowd" (taken as single objects)', "annotations", place)


def _unmeasurable(json_file: str, annotations: list[Annotation], sizes: dict) -> str | None:
    for place, annotation in enumerate(annotations):
        if annotation.image_id not in sizes:
            continue
        area, (_, _, width, height) = annotation.area, annotation.bbox
        if area is UNSET or area is None:
            return (
                f'{json_file}: annotations[{place}] has no "area", by which COCO\'s AP tells small objects from large '
                "ones; write square pixels into every annotation: those of the mask, or of the box where there is none"
            )
        if area < 0 or (area == 0 and width * height >= 1 and not _is_a_line(annotation)):
            return (
                f"{json_file}: annotations[{place}].area is {area:g}, and its box {width:g} x {height:g}; COCO's AP "
                "tells small objects from large ones by their area: write the square pixels of the mask, or of the box"
            )
    return None


def _is_a_line(annotation: Annotation) -> bool:
    """Whether the polygons enclose less than one pixel."""
    mask = annotation.segmentation
    return isinstance(mask, list) and has_mask(annotation) and polygon_area(mask) < 1


# --- boxes


def _check_boxes(json_file: str, checked: CheckedCoco, sizes: dict[int, tuple[int, int]], empty: list[int]) -> None:
    """Count what training skips or clips.

    Objects whose box and mask have no area, and masks without a pixel, are removed: no detection could match them.
    """
    content = checked.content
    boxes = np.array([annotation.bbox for annotation in content.annotations])
    images = np.array([sizes.get(annotation.image_id, (0, 0)) for annotation in content.annotations])
    crowd = np.array([annotation.iscrowd == 1 for annotation in content.annotations])
    (x, y, width, height), (right, bottom) = boxes.T, images.T
    listed = right > 0
    flat = listed & ((width == 0) | (height == 0))
    whole = listed & ~flat
    whole[empty] = False
    _refuse_shares(json_file, content.annotations, boxes, whole)
    outside = whole & ((x >= right) | (y >= bottom) | (x + width <= 0) | (y + height <= 0))
    beyond = whole & ~outside & ((x < -1) | (y < -1) | (x + width > right + 1) | (y + height > bottom + 1))
    if not (whole & ~outside & ~crowd).any():
        raise UserError(
            f"{json_file} has no object to learn: of {len(boxes):,} annotations {int((~listed).sum()):,} are of images "
            f"that it does not list, {int(crowd.sum()):,} are crowds, and the others have no pixel in their image"
        )
    as_corners = (width > x) & (height > y) & (width <= right + 1) & (height <= bottom + 1)
    if beyond.sum() > whole.sum() / 10 and as_corners[whole].all():
        raise UserError(
            f"{json_file}: annotations[{int(beyond.argmax())}].bbox reaches beyond its image, as {int(beyond.sum()):,} "
            f"of {int(whole.sum()):,} boxes do, and all of them would fit as corners x0, y0, x1, y1; COCO's boxes are "
            "x, y, width, height: convert them"
        )
    corners = " (clipped; are they the corners x0, y0, x1, y1?)" if beyond.sum() > whole.sum() / 2 else " (clipped)"
    for words, where in (
        ("annotations of images that the file does not list (ignored)", ~listed),
        ("boxes wholly outside their image (dropped in training)", outside),
        ("boxes that reach beyond their image" + corners, beyond),
        ("objects marked iscrowd (not trained on; AP counts them neither as found nor as missed)", listed & crowd),
    ):
        if where.any():
            checked.harmless.note(words, "annotations", int(where.argmax()), int(where.sum()))
    keep = listed & ~flat
    keep[empty] = False
    content.annotations = [annotation for annotation, stays in zip(content.annotations, keep, strict=True) if stays]
    if flat.any():
        fault = "boxes without area, and no mask to take one from (removed)"
        checked.repaired.note(fault, "annotations", int(flat.argmax()), int(flat.sum()))
    if empty:
        checked.repaired.note("annotations whose masks have no pixel (removed)", "annotations", min(empty), len(empty))


def _refuse_shares(json_file: str, annotations: list[Annotation], boxes: np.ndarray, whole: np.ndarray) -> None:
    """Refuse boxes that look like fractions: inside the first pixel, as all boxes are or although the object's area is
    larger.
    """
    within = whole & ((boxes[:, :2] + boxes[:, 2:]) <= 1.001).all(axis=1)
    areas = np.array([a.area or 0 for a, small in zip(annotations, within, strict=True) if small])
    small = np.flatnonzero(within)
    place = small[0] if len(small) and len(small) == whole.sum() else next(iter(small[areas >= 4]), None)
    if place is not None:
        raise UserError(
            f"{json_file}: annotations[{place}].bbox is {shown(boxes[place].tolist())}, in one pixel: it looks like "
            "shares of 1; write x, y, width and height in pixels"
        )
