"""Image files: every format that `decode_image` takes, damaged. What it accepts has the size that the check of a
dataset's headers says, the same pixels each time, and, undamaged and lossless, the pixels that were written.
"""

import functools
import io
import warnings

import numpy as np
from harness import Wrong
from mutations import mutate_bytes, pick
from PIL import Image

from cropfield.image_files import _header, _upright
from cropfield.mapper import read_labels
from pretrain.data.decode import BrokenImage, decode_image, safe_formats
from pretrain.data.reading import AS_RGB, MAX_PIXELS
from pretrain.errors import UserError

REFUSED = (UserError, BrokenImage)
MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "PA")
OPTIONS = {
    "JPEG": ({}, {"progressive": True}, {"quality": 20, "subsampling": 2}),
    "TIFF": tuple({"compression": how} for how in (None, "tiff_lzw", "packbits", "jpeg", "group4", "zstd")),
    "GIF": ({}, {"save_all": True}),
    "WEBP": ({}, {"lossless": True}, {"save_all": True}),
    "PNG": ({}, {"save_all": True}),
    "BMP": ({}, {"bitmap_format": "bmp"}),
}  # fmt: skip
LOSSLESS = {"PNG", "BMP", "PPM", "TGA", "QOI", "SGI", "PCX"}


@functools.cache
def seeds() -> list[tuple[str, np.ndarray | None, bytes]]:
    """(format, pixels where they must come back, bytes)."""
    Image.init()
    rng, found = np.random.default_rng(0), []
    pixels = rng.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    for kind in set(safe_formats()) & set(Image.SAVE):
        for mode in MODES:
            for options in OPTIONS.get(kind, ({},)):
                try:
                    image = Image.fromarray(pixels).convert("L").convert("I").convert(mode) if mode == "I;16" else None
                    image = image or Image.fromarray(pixels).convert(mode)
                    more = (
                        {"append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
                        if "save_all" in options
                        else {}
                    )
                    image.save(file := io.BytesIO(), format=kind, **options, **more)
                except Exception:  # not every format has every mode
                    continue
                exact = kind in LOSSLESS and mode == "RGB"
                found.append((kind, pixels if exact else None, file.getvalue()))
    return sorted(found, key=lambda seed: seed[::2])


def turned(rng: np.random.Generator) -> bytes:
    """A photograph with an orientation, in metadata that may be damaged."""
    image = Image.fromarray(rng.integers(0, 256, (19, 23, 3), dtype=np.uint8))
    kind, tags = pick(rng, ("JPEG", "JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO")), Image.Exif()
    tags[0x0112] = pick(rng, (1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65535))
    image.save(file := io.BytesIO(), format=kind, exif=tags)
    data, exif = file.getvalue(), tags.tobytes()
    return data.replace(exif, exif[:6] + mutate_bytes(exif[6:], rng, 40)) if rng.random() < 0.5 else data


def attempt(rng, folder):
    kind, pixels, data = pick(rng, seeds())
    chance = rng.random()
    if chance < 0.3:
        pixels, data = None, turned(rng)
    if chance > 0.1 or pixels is None and chance > 0.05:
        pixels, data = None, mutate_bytes(data, rng)
    path = folder / f"image.{kind.lower()}"
    path.write_bytes(data)
    min_pixels = pick(rng, (None, None, 1, 30, 120, 10**9))
    image = decode_image(path, min_pixels=min_pixels)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not 0 < image.size <= 3 * MAX_PIXELS:
        raise Wrong(f"{image.dtype} {image.shape}")
    if not np.array_equal(image, decode_image(data, min_pixels=min_pixels)):
        raise Wrong("other pixels the second time")
    whole = image if min_pixels is None else decode_image(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = _header(str(path), AS_RGB)
    if header is None or _upright(header) != whole.shape[1::-1]:
        raise Wrong(f"the header says {header}, decoded are {whole.shape}")
    if pixels is not None and not np.array_equal(whole, pixels):
        raise Wrong(f"other pixels than were written, in a {kind}")
    try:
        labels = read_labels(str(path))
    except BrokenImage:
        return
    if labels.ndim != 2:
        raise Wrong(f"labels of shape {labels.shape}")
