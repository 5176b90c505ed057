"""The EXIF orientation of an image, for decoding it and for reading its upright size."""

import struct

import numpy as np
from PIL import Image

TAG = 0x0112  # EXIF's; 5 to 8 swap width and height
# Chunks of a PNG that may tell, and may come after the pixels.
LATE_CHUNKS = (b"eXIf", b"zTXt", b"iTXt")


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, from the metadata read so far; 1 if it is missing or damaged."""
    try:
        found = Image.Image.getexif(image).get(TAG)  # a PNG's own would load the image
        return int(found) if found in range(1, 9) else 1
    except Exception:  # damaged metadata can make a parser raise anything
        return 1


def orientation_in_file(image: Image.Image) -> int:
    """EXIF orientation of an image that was opened but not loaded."""
    if image.format == "PNG" and _has_late_metadata(image.fp):
        image.load()
    return orientation(image)


def _has_late_metadata(file) -> bool:
    place, found = file.tell(), False
    file.seek(8)
    while not found and len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        found = name in LATE_CHUNKS
        file.seek(length + 4, 1)
    file.seek(place)
    return found


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, C) as stored -> upright and contiguous."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
