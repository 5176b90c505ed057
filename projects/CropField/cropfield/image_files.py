"""Check that a COCO file's images exist and have the recorded size. Only headers are read."""

import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath

from PIL import Image as Pillow

from pretrain.data.coco import Image
from pretrain.data.decode import MAX_PIXELS, lift_pillows_limit, safe_formats
from pretrain.data.orientation import orientation_in_file
from pretrain.errors import UserError

READERS = 8  # threads, which mostly wait for the disk


def check_image_files(json_file: str, entries: list[Image], folder: str, max_pixels: int = MAX_PIXELS) -> int:
    """Look for each file in `folder` and compare its header with the entry.

    Returns:
        The number of images with an EXIF rotation whose size does not tell whether the boxes refer to the stored or the
        upright image. They are read upright.

    Raises:
        UserError: no such folder, a missing file, a file that is not an image, or a size other than the upright
            image's.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder; give the folder that contains the images of {json_file}")
    absent = [entry.file_name for entry in entries if not os.path.isfile(os.path.join(folder, entry.file_name))]
    if absent:
        raise UserError(
            f"{len(absent)} of {len(entries)} images of {json_file} are not in {folder}, {absent[0]!r:.200} first"
            f"{_looks_like(absent[0], folder)}; give the folder that its file names are relative to"
        )
    with warnings.catch_warnings(), ThreadPoolExecutor(READERS) as pool:
        warnings.simplefilter("ignore")  # of odd metadata
        lift_pillows_limit(max_pixels)
        paths = [os.path.join(folder, entry.file_name) for entry in entries]
        headers = list(pool.map(partial(_header, max_pixels=max_pixels), paths))
    pairs = list(enumerate(zip(entries, headers, strict=True)))
    unreadable = [(place, entry) for place, (entry, header) in pairs if header is None]
    if unreadable:
        place, entry = unreadable[0]
        raise UserError(
            f"{len(unreadable)} of {len(entries)} images of {json_file} cannot be read as images, "
            f"{os.path.join(folder, entry.file_name)!r} (images[{place}]) first; replace or remove them, or raise "
            f"dataset.max_pixels={max_pixels} where they are larger"
        )
    wrong = [(p, e, h) for p, (e, h) in pairs if (e.width, e.height) != _upright(h)]
    if wrong:
        raise UserError(f"{json_file}: {_mismatch(*wrong[0])}; {len(wrong)} of {len(entries)} images are like this")
    return sum(orientation not in (0, 1) and (orientation < 5 or w == h) for w, h, orientation in headers)


def _header(path: str, max_pixels: int) -> tuple[int, int, int] | None:
    """Read width and height as stored, and EXIF orientation (1 if absent); None if not an image, or too large."""
    try:
        with Pillow.open(path, formats=safe_formats()) as image:
            orientation = orientation_in_file(image)
            if image.width * image.height > max_pixels:
                return None
            # Pillow reports a TIFF's upright size.
            size = image.size[::-1] if image.format == "TIFF" and orientation >= 5 else image.size
            return *size, orientation
    except Exception:  # parsers may raise anything on a malicious header
        return None


def _upright(header: tuple[int, int, int]) -> tuple[int, int]:
    width, height, orientation = header
    return (height, width) if orientation >= 5 else (width, height)


def _mismatch(place: int, entry: Image, header: tuple[int, int, int]) -> str:
    said, (width, height) = (entry.width, entry.height), _upright(header)
    start = f"images[{place}] has width {said[0]} and height {said[1]}, and {entry.file_name!r} is {width} x {height}"
    if said != (height, width):
        return f"{start}; write the file's size, and see that the boxes were drawn on that file"
    if header[2] >= 5:
        return (
            f"{start} when its EXIF orientation {header[2]} is followed, as it is here; write the upright size and "
            "boxes, or remove the orientation from the files"
        )
    return f"{start}: width and height are swapped; swap them in the annotation file"


def _looks_like(name: str, folder: str) -> str:
    """A hint about the name of a missing file, in parentheses, or ""."""
    if re.match("[A-Za-z][A-Za-z0-9+.-]+://", name):
        return " (a URL: download the images, and write their names)"
    if "\\" in name or re.match("[A-Za-z]:", name):
        there = os.path.isfile(os.path.join(folder, PureWindowsPath(name).as_posix()))
        return f" (backslashes of a Windows path: write / instead{', and it is found' if there else ''})"
    if re.search("%[0-9A-Fa-f]{2}", name):
        return " (percent codes of a URL: write the characters that they stand for, a space for %20)"
    if name != name.strip():
        return " (a space at its end)"
    if os.path.isfile(os.path.join(folder, PurePosixPath(name).name)):
        return f" ({PurePosixPath(name).name!r} is there: leave out the folder in the names)"
    stem = PurePosixPath(name).stem.lower()
    beside = os.path.join(folder, os.path.dirname(name))
    alike = [other for other in sorted(_listdir(beside)) if PurePosixPath(other).stem.lower() == stem]
    return f" ({alike[0]!r} is there)" if alike else ""


def _listdir(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []
