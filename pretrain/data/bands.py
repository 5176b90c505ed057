"""Bands of images: how many a file has, and its values as 8-bit channels.

Pillow and OpenCV leave bands of a TIFF out without a word, or take the fourth for transparency. A TIFF of two bands, or
of more than three, is therefore read by tifffile, or else rasterio, where one of them is installed.
"""

import io
import logging
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pretrain.data.reading import Reading, ValueRange
from pretrain.errors import UserError

ALPHA_BACKGROUND = (128, 128, 128)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _BANDS, _LAYOUT = 256, 257, 258, 274, 277, 284  # tags
_BANDS_OF_MODE = {"1": 1, "L": 1, "I": 1, "F": 1, "LA": 2, "La": 2, "PA": 4, "RGBA": 4, "RGBa": 4, "RGBX": 4}
_READERS = ("tifffile", "rasterio")


class TiffHeader(NamedTuple):
    """Of a TIFF's first page: sides in pixels as stored, bands, bits of a value, whether each band is a plane of its
    own, EXIF orientation.
    """

    width: int
    height: int
    bands: int
    bits: int
    planar: bool
    orientation: int

    def needs_reader(self, reading: Reading) -> bool:
        """Whether Pillow would lose bands, or bits, that are asked for."""
        deep = self.bits > 8 and (reading.value_range is not None or self.planar)
        return (self.bands not in (1, 3) and (reading.channels not in (1, 3) or deep)) or (self.bands == 3 and deep)


def tiff_header(file: BinaryIO) -> TiffHeader | None:
    """The header of a TIFF, also of kinds that Pillow does not read; None for anything else. Leaves `file` anywhere."""
    start = file.read(16)
    if start[:4] not in _TIFF:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = ImageFileDirectory_v2(start if 43 in start[2:4] else start[:8])
            file.seek(tags.next)
            tags.load(file)
            bits, turned = tags.get(_BITS, 1), tags.get(_ORIENTATION, 1)
            bits = max(bits) if isinstance(bits, tuple) else bits
            sides = int(tags[_WIDTH]), int(tags[_HEIGHT])
            planar = tags.get(_LAYOUT, 1) == 2
            return TiffHeader(*sides, int(tags.get(_BANDS, 1)), bits, planar, turned if turned in range(1, 9) else 1)
    except Exception:  # a hostile header can make a parser raise anything
        return None


def bands_of(image: Image.Image) -> int:
    """Bands of an image that Pillow has opened; palettes and other models of colour count as RGB."""
    alpha = image.mode == "P" and image.has_transparency_data
    return 4 if alpha else 1 if image.mode.startswith("I;16") else _BANDS_OF_MODE.get(image.mode, 3)


def tiff_reader() -> str | None:
    """The installed package that reads TIFFs of any number of bands; None if there is none."""
    return next((name for name in _READERS if find_spec(name)), None)


def read_tiff(data: bytes, header: TiffHeader, reading: Reading) -> np.ndarray:
    """A TIFF's first page -> uint8 (H, W, channels), not turned. Raises whatever the reader does."""
    return as_channels(_tiff_values(data, header), reading)


def _tiff_values(data: bytes, header: TiffHeader) -> np.ndarray:
    """All values (H, W, bands), as stored."""
    if tiff_reader() == "rasterio":
        import rasterio.io

        with rasterio.io.MemoryFile(data) as file, file.open() as opened:
            return opened.read().transpose(1, 2, 0)
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is told by `BrokenImage`
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        if page.size != header.width * header.height * header.bands:
            raise ValueError("its header contradicts itself")
        values = page.asarray(maxworkers=1)
    planar = header.bands > 1 and values.shape == (header.bands, header.height, header.width)
    return values.transpose(1, 2, 0) if planar else values.reshape(header.height, header.width, header.bands)


def to_channels(image: Image.Image, data: bytes, reading: Reading) -> np.ndarray:
    """What Pillow has loaded from `data` -> uint8 (H, W, channels)."""
    if reading.value_range is not None and (values := _deep_values(image, data)) is not None:
        return as_channels(values, reading)
    if reading.channels in (1, 3):
        rgb = _to_rgb(image)
        return rgb if reading.channels == 3 else luma(rgb)
    if image.mode not in ("L", "LA", "RGB", "RGBA") and not image.mode.startswith("I;16"):
        image = image.convert("RGBA" if bands_of(image) == 4 else "RGB")
    return as_channels(np.atleast_3d(np.asarray(image)), reading)


def _deep_values(image: Image.Image, data: bytes) -> np.ndarray | None:
    """The values (H, W, C) of an image of more than 8 bits; None for others."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return np.atleast_3d(np.asarray(image))
    if image.format == "PNG" and data[24] == 16 and image.mode != "L":  # of which Pillow keeps 8 bits
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is None:
            raise ValueError("cannot be decoded")
        order = {"LA": [0, 3], "RGBA": [2, 1, 0, 3]}.get(image.mode, [2, 1, 0])  # from BGR
        return np.atleast_3d(values)[..., order]
    return None


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Any Pillow mode -> uint8 RGB (H, W, 3)."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return cv2.cvtColor(to_8_bits(np.asarray(image), None), cv2.COLOR_GRAY2RGB)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*ALPHA_BACKGROUND, 255))
        image = Image.alpha_composite(background, image)
    return np.array(image.convert("RGB"))


def as_channels(values: np.ndarray, reading: Reading) -> np.ndarray:
    """Values (H, W, bands) -> uint8 (H, W, channels).

    Grey becomes three equal channels, and colour one by its luma, as everywhere; else the first bands are taken. Raises
    ValueError where there are fewer.
    """
    bands, channels = values.shape[2], reading.channels
    if channels == 1 and bands in (3, 4):
        return luma(to_8_bits(values, reading.value_range)[..., :3])
    pixels = to_8_bits(values[..., :channels], reading.value_range)
    if channels == 3 and bands < 3:
        return np.repeat(pixels[..., :1], 3, axis=2)
    if bands < channels:
        raise ValueError(f"{bands} of {channels} bands")
    return np.ascontiguousarray(pixels)


def to_8_bits(values: np.ndarray, value_range: ValueRange | None) -> np.ndarray:
    """Values of any shape -> uint8, see `Reading`; 8 bits stay as they are."""
    if values.dtype == np.uint8:
        return values
    if value_range is None and values.dtype.kind == "u" and values.itemsize == 2:  # in either byte order
        return (values >> 8).astype(np.uint8)
    if value_range is None:
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise ValueError("no pixel has a value")
        value_range = float(finite.min()), float(finite.max())
    low, high = value_range
    levels = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low)
    levels = (levels - np.float32(low)) * np.float32(255 / max(high - low, 1e-12))
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> (H, W, 1)"""
    return cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)[..., None]


def check_bands(found: Iterable[tuple[str, Any]], channels: int) -> str:
    """Hold the bands of images against the `channels` that are asked for.

    Args:
        found: (name, `pretrain.data.decode.ImageFacts`) of each; None for a broken image.

    Returns:
        What of them is left out, "" if nothing is.

    Raises:
        UserError: an image has too few bands, or, where all are taken as they are, not as many as the others; or no
            package is installed that reads them.
    """
    facts = [(name, fact) for name, fact in found if fact is not None]
    if unread := [name for name, fact in facts if fact.needs_reader and not tiff_reader()]:
        raise UserError(
            f"{unread[0]} is a TIFF that needs tifffile or rasterio to read all its bands: pip install tifffile"
        )
    known = [(name, fact.bands) for name, fact in facts]
    if channels not in (1, 3):
        if fewer := [(name, bands) for name, bands in known if bands < channels]:
            raise UserError(
                f"{len(fewer)} of {len(known)} images that were looked at have fewer bands than in_chans={channels}, "
                f"{fewer[0][0]} first, which has {fewer[0][1]}; set in_chans to what all have, or leave them out"
            )
        if other := [(name, bands) for name, bands in known if bands != known[0][1]]:
            raise UserError(
                f"bands differ between images: {known[0][0]} has {known[0][1]} and {other[0][0]} {other[0][1]}; write "
                "all with the same bands, or leave the others out"
            )
    return left_out(known, channels)


def left_out(known: list[tuple[str, int]], channels: int) -> str:
    """What of the bands of images, by name, is not used; "" if all is."""
    more = [(name, bands) for name, bands in known if bands > (3 if channels == 1 else channels)]
    if not more:
        return ""
    used = "the luma of the first 3 is" if channels == 1 else f"the first {channels} are"
    return (
        f"{len(more)} of {len(known)} images that were looked at have more bands than in_chans={channels} takes "
        f"({more[0][0]} first, with {more[0][1]}): {used} used, and the rest left out, or taken for transparency where "
        "the file says so"
    )
