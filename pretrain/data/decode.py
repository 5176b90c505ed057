"""Decoding: image files of any kind become 8-bit RGB, or other bands of 8 bits, or raise `BrokenImage`."""

import contextlib
import functools
import io
import os
import stat
import warnings
from importlib.util import find_spec
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError, features

from pretrain.data.bands import TiffHeader, bands_of, read_tiff, tiff_header, tiff_reader, to_channels
from pretrain.data.orientation import orientation, orientation_in_file, upright
from pretrain.data.reading import AS_RGB, Reading

MAX_BYTES = 2**30  # more than MAX_PIXELS of 16-bit RGBA take uncompressed
# Pillow hands these on: PostScript to Ghostscript, metafiles to Windows, HDF5 and weather data to whatever has
# registered itself, IPTC's content to the decoder that it asks for.
REFUSED_FORMATS = {"EPS", "WMF", "GRIB", "HDF5", "BUFR", "IPTC"}
# By how much a JPEG can be reduced while it is decoded. With IMREAD_COLOR_RGB these flags do not make it grey.
REDUCTIONS = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}


class BrokenImage(Exception):
    """An image that cannot be used. `name`: its file; `reason`: a short phrase from a fixed set, so that reasons can
    be counted.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def decode_image(
    source: bytes | str | os.PathLike, name: str | None = None, reading: Reading = AS_RGB, min_pixels: int | None = None
) -> np.ndarray:
    """Decode a file, or the bytes of one -> uint8 (H, W, channels), upright, as `reading` says.

    EXIF orientation is applied, and only the first of several frames is read. Transparent images are composited on
    mid-grey, because dropping alpha would show arbitrary colours. The size is checked in the header, before decoding.
    OpenCV decodes plain JPEGs, and PNGs of 16 bits where they are asked for, tifffile or rasterio the TIFFs of which
    Pillow would lose bands (`pretrain.data.bands`), Pillow everything else except `REFUSED_FORMATS`.

    min_pixels: a plain JPEG is decoded at a half, a quarter or an eighth of its sides if at least this many pixels
    remain, which takes less time. The last row and column may then stand for fewer pixels than the others. None: full
    size.

    Raises `BrokenImage` with reason "missing", "not a file" (a pipe would be waited for without end), "file too large"
    (over 1 GiB), "cannot be read", "empty file", "not an image", "zero size", "too many pixels", "truncated",
    "cannot be decoded", "3 of 5 bands" or "needs tifffile" (or its decoders, imagecodecs).
    """
    is_bytes = isinstance(source, bytes)
    name = name or ("<bytes>" if is_bytes else os.fspath(source))
    data = source if is_bytes else _read(source, name)
    if not data:
        raise BrokenImage(name, "empty file")
    tiff = tiff_header(io.BytesIO(data))
    if tiff and tiff.needs_reader(reading):
        return _decode_tiff(data, tiff, name, reading)
    try:
        image = _open(data, name, reading.max_pixels)
    except BrokenImage as broken:
        if not tiff or broken.reason != "not an image":
            raise
        return _decode_tiff(data, tiff, name, reading)
    if image.width * image.height > reading.max_pixels:
        raise BrokenImage(name, "too many pixels")
    channels = reading.channels
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB") and channels in (1, 3) and _jpeg_is_whole(data):
        # OpenCV would apply the orientation that it finds itself, which in damaged metadata is another one.
        how = _reduction(image.width * image.height, min_pixels) | cv2.IMREAD_IGNORE_ORIENTATION
        how |= cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
        with contextlib.suppress(cv2.error):  # too large for it; what is wrong with the file is for Pillow to say
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how)
            if pixels is not None:
                return upright(pixels if channels == 3 else pixels[..., None], orientation(image))
    return _decode_with_pillow(image, data, name, reading)


def _read(path: str | os.PathLike, name: str) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenImage(name, "not a file")
        if status.st_size > MAX_BYTES:
            raise BrokenImage(name, "file too large")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise BrokenImage(name, "missing") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise BrokenImage(name, "cannot be read") from error


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Read the header only."""
    lift_pillows_limit(max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of size, which `decode_image` judges
            return Image.open(io.BytesIO(data), formats=safe_formats())
    except Image.DecompressionBombError as error:
        raise BrokenImage(name, "too many pixels") from error
    except UnidentifiedImageError as error:
        raise BrokenImage(name, "zero size" if _has_no_pixels(data) else "not an image") from error
    except Exception as error:  # a hostile header can make a parser raise anything
        raise BrokenImage(name, _decoder_reason(error)) from error


class ImageFacts(NamedTuple):
    """What a file's header says: sides in pixels as stored, EXIF orientation, bands, and whether Pillow would lose some
    of what is asked for.
    """

    width: int
    height: int
    orientation: int
    bands: int
    needs_reader: bool


def read_facts(source: bytes | str | os.PathLike, reading: Reading = AS_RGB) -> ImageFacts | None:
    """Read the header of a file, or of its bytes; None where that is not an image."""
    lift_pillows_limit(reading.max_pixels)
    try:
        with (
            warnings.catch_warnings(),
            io.BytesIO(source) if isinstance(source, bytes) else _open_regular(source) as file,
        ):
            warnings.simplefilter("ignore")
            tiff = tiff_header(file)
            file.seek(0)
            if tiff:
                needs = tiff.needs_reader(reading) or not _is_known(file)
                return ImageFacts(tiff.width, tiff.height, tiff.orientation, tiff.bands, needs)
            with Image.open(file, formats=safe_formats()) as image:
                return ImageFacts(*image.size, orientation_in_file(image), bands_of(image), False)
    except Exception:  # parsers may raise anything on a malicious header
        return None


def _open_regular(path: str | os.PathLike):
    if not os.path.isfile(path):
        raise ValueError("not a file")
    return open(path, "rb")


def _is_known(tiff) -> bool:
    try:
        with Image.open(tiff, formats=["TIFF"]):
            return True
    except UnidentifiedImageError:
        return False


def lift_pillows_limit(max_pixels: int) -> None:
    """Let Pillow open images of up to `max_pixels`; the caller checks the size."""
    if Image.MAX_IMAGE_PIXELS and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def extra_endings() -> tuple[str, ...]:
    """File endings of the optional formats that this installation reads; HEIF needs the package pillow_heif."""
    known = (
        (features.check("avif"), (".avif",)),
        (features.check("jpg_2000"), (".jp2", ".j2k", ".jpx")),
        (find_spec("pillow_heif") is not None, (".heic", ".heif")),
    )
    return tuple(ending for installed, endings in known if installed for ending in endings)


@functools.cache
def safe_formats() -> list[str]:
    """Names of the formats that Pillow decodes without external programs, for `Image.open(..., formats=...)`."""
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return [name for name in Image.ID if name not in REFUSED_FORMATS]


def _has_no_pixels(data: bytes) -> bool:
    """Whether it is a PNG or BMP of zero width or height, which Pillow reports as an unknown format."""
    sizes = data[16:24] if data.startswith(b"\x89PNG") else data[18:26] if data.startswith(b"BM") else b""
    return bytes(4) in (sizes[:4], sizes[4:])


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether an end marker follows the last scan; some OpenCV releases silently fill in missing data."""
    end = data.rfind(b"\xff\xd9")
    return end >= 0 and data.find(b"\xff\xda", end) < 0


def _reduction(pixels: int, min_pixels: int | None) -> int:
    """OpenCV's flag for the smallest size that keeps at least `min_pixels` of `pixels`; 0 for the full size."""
    if min_pixels is None:
        return 0
    return next((flag for factor, flag in REDUCTIONS.items() if pixels >= min_pixels * factor**2), 0)


def _decode_with_pillow(image: Image.Image, data: bytes, name: str, reading: Reading) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            pixels = to_channels(image, data, reading)
            return upright(pixels, 1 if image.format == "TIFF" else orientation(image))
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, zlib.error and more
        raise BrokenImage(name, _decoder_reason(error)) from error


def _decode_tiff(data: bytes, tiff: TiffHeader, name: str, reading: Reading) -> np.ndarray:
    """Decode a TIFF of which Pillow would lose bands, or that it does not read."""
    if not tiff.width * tiff.height * tiff.bands:
        raise BrokenImage(name, "zero size")
    if tiff.width * tiff.height * max(1, tiff.bands / max(reading.channels, 4)) > reading.max_pixels:
        raise BrokenImage(name, "too many pixels")
    if not tiff_reader():
        raise BrokenImage(name, "needs tifffile")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return upright(read_tiff(data, tiff, reading), tiff.orientation)
    except Exception as error:
        raise BrokenImage(name, _decoder_reason(error)) from error


def _decoder_reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ValueError) and text.endswith(" bands"):
        return text
    if "truncated" in text.lower():
        return "truncated"
    return "needs tifffile and imagecodecs" if "imagecodecs" in text else "cannot be decoded"
