"""COCO annotation files, read with types: what has the wrong structure, type or range is named by its path."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pretrain.errors import UserError

Id = int | float | str
Coordinate = Annotated[float, Meta(ge=-1e7, le=1e7)]  # pixels; NaN and infinity lie outside
Length = Annotated[float, Meta(ge=0, le=1e7)]
Side = Annotated[int, Meta(ge=1, le=10**6)] | Annotated[float, Meta(ge=1, le=1e6)]
BINARY = {  # first bytes of what is given in a COCO file's place
    b"\x1f\x8b": "packed by gzip",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
}
Content = TypeVar("Content")


class Runs(Struct, gc=False):
    """A mask as run lengths, column by column, beginning with what is not of it; as text they are compressed."""

    size: tuple[int, int]  # height, width
    counts: str | list[Annotated[int, Meta(ge=0)]]


class Image(Struct, gc=False):
    id: Id
    file_name: Annotated[str, Meta(min_length=1)]
    height: Side
    width: Side


class Category(Struct, gc=False):
    id: Id
    name: str


class Annotation(Struct, gc=False, omit_defaults=True):
    """One object. `bbox` is [x, y, width, height] in pixels."""

    image_id: Id
    category_id: Id
    bbox: tuple[Coordinate, Coordinate, Length, Length]
    id: Id | None | UnsetType = UNSET
    segmentation: list[list[Coordinate]] | Runs | None | UnsetType = UNSET
    area: Annotated[float, Meta(le=1e10)] | None | UnsetType = UNSET  # COCO's AP ignores what is larger
    iscrowd: bool | Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    ignore: Any = UNSET


class CocoFile(Struct, gc=False):
    """The parts of an annotation file that detection needs; what else it holds is not kept."""

    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation]


class _Name(Struct, gc=False):
    file_name: Annotated[str, Meta(min_length=1)]


class _Keypoints(Struct, gc=False):
    keypoints: list[float] | None = None


class _AllKeypoints(Struct, gc=False):
    annotations: list[_Keypoints] = []


class _Names(Struct, gc=False):
    images: list[_Name]


def read_coco(file: str | os.PathLike) -> tuple[CocoFile, str | None]:
    """-> content, and what is unusual about the file's text (readers that know only plain JSON cannot take it) or None.

    Raises:
        UserError: the file cannot be read, is no JSON, or a part of it has the wrong structure, type or range.
    """
    return _decode(file, CocoFile)


def read_image_names(file: str | os.PathLike) -> list[str]:
    """Every `images[].file_name`; annotations are passed over. Raises UserError."""
    content, unusual = _decode(file, _Names)
    names = [image.file_name for image in content.images]
    if not names:
        raise UserError(f"{file} lists no images: give a COCO file whose list images is not empty")
    for place, name in enumerate(names if unusual else ()):
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            raise UserError(
                f"{file}: images[{place}].file_name is {name!r}, which cannot be a file's name; correct it"
            ) from None
    return names


def _decode(file: str | os.PathLike, kind: type[Content]) -> tuple[Content, str | None]:
    try:
        data = Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the annotation file {file} cannot be read ({reason}); check the path") from None
    try:
        if not data.isascii():
            str(data, "utf-8")
        return msgspec.json.decode(data, type=kind), _odd_keypoints(data)
    except msgspec.ValidationError as error:
        raise UserError(f"{file}: {_in_words(str(error), _plain(file, data))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_unusual(file, data, kind)
    except RecursionError:
        raise _too_deep(file) from None


def _odd_keypoints(data: bytes) -> str | None:
    """Detectron2 reads keypoints also where only boxes are wanted, and fails on all but numbers."""
    try:
        msgspec.json.decode(data, type=_AllKeypoints) if b'"keypoints"' in data else None
    except msgspec.ValidationError:
        return "has keypoints that are no flat list of numbers"
    return None


def _decode_unusual(file: str | os.PathLike, data: bytes, kind: type[Content]) -> tuple[Content, str | None]:
    """What Python's reader takes and the JSON standard does not: NaN, other encodings, halves of characters."""
    content = _plain(file, data)
    try:
        return msgspec.convert(content, kind), f"is not plain JSON in UTF-8 but {_oddity(data)}"
    except msgspec.ValidationError as error:
        raise UserError(f"{file}: {_in_words(str(error), content)}") from None
    except UnicodeEncodeError as error:
        half = json.dumps(error.object[error.start])
        raise UserError(
            f"{file} holds a lone surrogate, {half}, in a key or in place of an object; write it again"
        ) from None


def _oddity(data: bytes) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        return "begins with a byte-order mark"
    return f"is in {json.detect_encoding(data).upper()}" if b"\0" in data[:4] else "holds NaN or half characters"


def _plain(file: str | os.PathLike, data: bytes):
    try:
        return json.loads(data)
    except RecursionError:
        raise _too_deep(file) from None
    except UnicodeDecodeError as error:
        if kind := next((kind for start, kind in BINARY.items() if data.startswith(start)), None):
            raise UserError(f"{file} is {kind} and no COCO annotation file (JSON); give that file") from None
        raise UserError(f"{file} is not text in UTF-8 (byte {error.start}); save it as UTF-8") from None
    except ValueError as error:
        if getattr(error, "msg", "") == "Extra data":
            raise UserError(
                f"{file} goes on after its first object, in line {error.lineno} (JSON lines, or two files in one); "
                "write one object with the lists images, categories and annotations"
            ) from None
        raise UserError(f"{file} is not complete JSON ({error}); copy or write it again") from None


def _too_deep(file: str | os.PathLike) -> UserError:
    return UserError(f"{file} is nested too deeply for a COCO annotation file; write it again")


# --- faults in words

WANTED = {
    "images": "a list of images",
    "categories": "a list of categories",
    "annotations": "a list of annotations",
    "bbox": "[x, y, width, height] in pixels",
    "segmentation": "polygons, [[x1, y1, x2, y2, x3, y3, ...], ...], or run lengths with size and counts",
    "size": "[height, width]",
    "counts": "run lengths, none of them negative, or the text that they are compressed to",
    "area": "a number of square pixels, at most 1e10",
    "iscrowd": "0, or 1 for a crowd",
    "file_name": "the file's name as text",
    "name": "the category's name as text",
    "height": "the upright image's height in pixels",
    "width": "the upright image's width in pixels",
}


def _in_words(fault: str, content) -> str:
    """msgspec's message and the plain content -> what is wrong, where, and what belongs there."""
    reason, _, path = fault.partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    absent = re.search(r"missing required field `(\w+)`", reason)
    if absent and not path:
        return f'it has no "{absent[1]}", so it is no COCO annotation file for this use; give another one'
    if absent:
        return f'{path} has no "{absent[1]}"; write {WANTED.get(absent[1], "one")} there'
    steps = re.findall(r"\w+", path)
    names = [step for step in steps if not step.isdecimal()]
    field = names[-1] if names else ""
    entry = field in ("images", "categories", "annotations") and steps[-1].isdecimal()
    wanted = "an object with names and values" if entry or not names else WANTED.get(field, "a whole number or a text")
    value = content
    try:
        for step in steps:
            value = value[int(step) if step.isdecimal() else step]
    except (LookupError, TypeError):  # Python's reader keeps another of two that have the same name
        return f"{path} is not what belongs there, and {steps[0]} may be there twice; write {wanted}"
    return f"{path or 'the content'} is {shown(value)}{_looks_like(value, steps)}; write {wanted}"


def shown(value) -> str:
    """A value of a file as JSON, cut short."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _looks_like(value, steps: list[str]) -> str:
    if "segmentation" in steps:
        inside = steps[steps.index("segmentation") + 1 :]
        if all(map(str.isdecimal, inside)):
            return _looks_like_a_mask(value, len(inside))
    if isinstance(value, str):
        return ", a number written as text (leave out the quotes)" if _is_number(value) else ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if steps[-1:] in (["file_name"], ["name"]):
        return ", a number (put it in quotes)"
    if "bbox" in steps:
        if -1e7 <= value < 0:
            return ", a negative size (are these the corners x0, y0, x1, y1?)"
        return "" if value != value else ", as large as no image is"
    return ""


def _looks_like_a_mask(value, depth: int) -> str:
    """depth: 0 for the segmentation itself, 1 for its parts, 2 for theirs."""
    if depth and isinstance(value, dict):
        return ", run lengths in a list (take them out of it)"
    if depth == 2 and isinstance(value, list):
        return ", points in pairs (write their numbers in one flat list)"
    if isinstance(value, str) and _is_number(value):
        return ", a number written as text (leave out the quotes)"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ", a polygon without a list around it (a mask is a list of polygons)" if depth == 1 else ""
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
