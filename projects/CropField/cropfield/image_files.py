"""Check that a COCO file's images exist and have the recorded size. Only headers are read."""

import logging
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath, PureWindowsPath

from pretrain.data.bands import check_bands
from pretrain.data.coco import Image
from pretrain.data.decode import ImageFacts, lift_pillows_limit, read_facts
from pretrain.data.reading import AS_RGB, Reading
from pretrain.errors import UserError

logger = logging.getLogger(__name__)

READERS = 8  # threads, which mostly wait for the disk


def check_image_files(json_file: str, entries: list[Image], folder: str, reading: Reading = AS_RGB) -> int:
    """Look for each file in `folder` and compare its header with the entry.

    Returns:
        The number of images with an EXIF rotation whose size does not tell whether the boxes refer to the stored or the
        upright image. They are read upright. What of the images' bands will be left out is logged.

    Raises:
        UserError: no such folder, a missing file, a file that is not an image, a size other than the upright image's,
            or other bands than asked for (`check_bands`), or a kind that needs a package which is not installed.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder; give the folder that contains the images of {json_file}")
    absent = [entry.file_name for entry in entries if not os.path.isfile(os.path.join(folder, entry.file_name))]
    if absent:
        raise UserError(
            f"{len(absent)} of {len(entries)} images of {json_file} are not in {folder}, {absent[0]!r:.200} first"
            f"{_looks_like(absent[0], folder)}; "
            + (
                "give the folder that its file names are relative to"
                if len(absent) == len(entries)
                else "is it the right folder? If so, copy them there, or take them out of the file"
            )
        )
    with warnings.catch_warnings(), ThreadPoolExecutor(READERS) as pool:
        warnings.simplefilter("ignore")  # of odd metadata
        lift_pillows_limit(reading.max_pixels)
        paths = [os.path.join(folder, entry.file_name) for entry in entries]
        headers = list(pool.map(lambda path: _header(path, reading), paths))
    pairs = list(enumerate(zip(entries, headers, strict=True)))
    unreadable = [(place, entry) for place, (entry, header) in pairs if header is None]
    if unreadable:
        place, entry = unreadable[0]
        raise UserError(
            f"{len(unreadable)} of {len(entries)} images of {json_file} cannot be read as images, "
            f"{os.path.join(folder, entry.file_name)!r} (images[{place}]) first; replace or remove them, or raise "
            f"dataset.max_pixels={reading.max_pixels} where they are larger (in a pretraining "
            "dataloader.train.source.max_pixels)"
        )
    if left_out := check_bands(((entry.file_name, header) for _, (entry, header) in pairs), reading.channels):
        logger.warning("%s: %s", json_file, left_out)
    wrong = [(p, e, h) for p, (e, h) in pairs if (e.width, e.height) != _upright(h)]
    if wrong:
        raise UserError(f"{json_file}: {_mismatch(*wrong[0])}; {len(wrong)} of {len(entries)} images are like this")
    return sum(h.orientation not in (0, 1) and (h.orientation < 5 or h.width == h.height) for h in headers)


def _header(path: str, reading: Reading) -> ImageFacts | None:
    """None if it is not an image, or too large."""
    facts = read_facts(path, reading)
    return facts if facts and facts.width * facts.height <= reading.max_pixels else None


def _upright(header: ImageFacts) -> tuple[int, int]:
    return (header.height, header.width) if header.orientation >= 5 else (header.width, header.height)


def _mismatch(place: int, entry: Image, header: ImageFacts) -> str:
    said, (width, height) = (entry.width, entry.height), _upright(header)
    start = f"images[{place}] has width {said[0]} and height {said[1]}, and {entry.file_name!r} is {width} x {height}"
    if said != (height, width):
        return f"{start}; write the file's size, and see that the boxes were drawn on that file"
    if header.orientation >= 5:
        return (
            f"{start} when its EXIF orientation {header.orientation} is followed, as it is here; write the upright "
            "size and boxes, or remove the orientation from the files"
        )
    return f"{start}: width and height are swapped; swap them in the annotation file"


def _looks_like(name: str, folder: str) -> str:
    """A hint about the name of a missing file, in parentheses, or ""."""
    if re.match("[A-Za-z][A-Za-z0-9+.-]+://", name):
        return " (a URL: download the images, and write their names)"
    if re.match("[A-Za-z]:/", name):
        return " (an absolute path of another machine: make it relative to the folder)"
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
