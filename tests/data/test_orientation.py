"""Which way up: whoever decodes an image and whoever asks for its size find the same."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from cropfield.image_files import check_image_files
from pretrain.data import coco
from pretrain.data.decode import decode_image
from pretrain.data.orientation import TAG


def photograph(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[TAG] = orientation
    Image.new("RGB", (30, 20)).save(file := io.BytesIO(), kind, exif=exif)
    return file.getvalue()


def late_exif(data: bytes) -> bytes:
    """A PNG's eXIf chunk behind its pixels."""
    place = data.index(b"eXIf") - 4
    length = int.from_bytes(data[place : place + 4], "big") + 12
    chunk, rest = data[place : place + length], data[:place] + data[place + length :]
    end = rest.index(b"IEND") - 4
    return rest[:end] + chunk + rest[end:]


DAMAGES = [
    lambda exif: exif.replace(b"MM", b"XX", 1),
    lambda exif: exif[:10],
    lambda exif: exif.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02"),  # the orientation as text
    lambda exif: exif.replace(b"\x01\x12\x00\x03\x00\x00\x00\x01", b"\x01\x12\x00\x03\x00\x00\x00\x02"),
    lambda exif: exif.replace(b"\x00\x06", b"\x00\x09"),
]


@pytest.mark.parametrize("damage", range(len(DAMAGES)))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_metadata_mean_the_same_everywhere(tmp_path, kind, damage):
    exif = Image.Exif()
    exif[TAG] = 6
    whole = exif.tobytes()
    broken = DAMAGES[damage](whole[6:]) if kind == "PNG" else whole[:6] + DAMAGES[damage](whole[6:])
    Image.new("RGB", (30, 20)).save(tmp_path / "a", kind, exif=whole[:6] + broken if kind == "PNG" else broken)
    height, width, _ = decode_image(tmp_path / "a").shape
    check_image_files("labels.json", [coco.Image(1, "a", height, width)], str(tmp_path))


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_exif_behind_the_pixels_of_a_png_counts(tmp_path, orientation):
    data = late_exif(photograph("PNG", orientation))
    assert data.index(b"eXIf") > data.index(b"IDAT") and zlib.crc32(b"IEND")
    (tmp_path / "a.png").write_bytes(data)
    size = (20, 30) if orientation == 1 else (30, 20)
    assert decode_image(data).shape[:2] == size
    check_image_files("labels.json", [coco.Image(1, "a.png", *size)], str(tmp_path))


def test_pixels_are_turned_as_pillow_turns_them(tmp_path):
    from PIL import ImageOps

    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[TAG] = orientation
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
        np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), expected)
