import io
import os
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from pretrain.data.decode import MAX_BYTES, BrokenImage, decode_image
from pretrain.data.reading import Reading


def scene(height: int = 40, width: int = 60) -> np.ndarray:
    """Four smooth, different quarters: survives JPEG, and shows every turn and mirroring."""
    image = np.full((height, width, 3), 40, dtype=np.uint8)
    image[: height // 2, : width // 2] = (220, 30, 30)
    image[: height // 2, width // 2 :] = (30, 200, 30)
    image[height // 2 :, : width // 2] = (30, 60, 220)
    return image


def encode(image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def assert_close(ours: np.ndarray, expected: np.ndarray, mean: float):
    assert ours.dtype == np.uint8 and ours.shape == expected.shape
    assert ours.flags.writeable and ours.flags.c_contiguous
    assert np.abs(ours.astype(int) - expected.astype(int)).mean() <= mean


# --- decoding


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_colour_survives_every_format(kind):
    assert_close(decode_image(encode(scene(), kind)), scene(), mean=5 if kind in ("JPEG", "WEBP") else 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    stored = {  # how an upright scene lies in the file
        1: scene(),
        2: scene()[:, ::-1],
        3: scene()[::-1, ::-1],
        4: scene()[::-1],
        5: scene().transpose(1, 0, 2),
        6: np.rot90(scene(), 1),
        7: scene()[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(scene(), -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_close(decode_image(encode(stored.copy(), kind, exif=exif)), scene(), mean=5)


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "YCbCr"])
def test_other_colour_models_become_rgb(mode):
    image = Image.fromarray(scene()).convert(mode)
    kinds = {"CMYK": ("JPEG", "TIFF"), "L": ("JPEG", "PNG"), "YCbCr": ("JPEG", "TIFF")}.get(mode, ("PNG",))
    for kind in kinds:
        assert_close(decode_image(encode(image, kind)), np.asarray(image.convert("RGB")), mean=5)


def test_progressive_jpeg_is_read():
    assert_close(decode_image(encode(scene(), "JPEG", progressive=True)), scene(), mean=5)


@pytest.mark.parametrize(
    ("min_pixels", "factor"), [(None, 1), (7501, 1), (7500, 2), (1876, 2), (1875, 4), (469, 4), (468, 8), (1, 8)]
)
def test_a_jpeg_is_reduced_as_far_as_its_pixels_allow(min_pixels, factor):
    big = np.repeat(np.repeat(scene(150, 200), 8, axis=0), 8, axis=1)[:150, :200]  # 30,000 pixels
    expected = np.asarray(Image.fromarray(big).reduce(factor))
    assert_close(decode_image(encode(big, "JPEG", quality=95), min_pixels=min_pixels), expected, mean=2)


def test_a_reduced_jpeg_is_upright_and_other_kinds_stay_whole():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(scene(), 1).copy()
    ours = decode_image(encode(stored, "JPEG", exif=exif), min_pixels=600)
    assert_close(ours, np.asarray(Image.fromarray(scene()).reduce(2)), mean=5)
    grey = decode_image(encode(Image.fromarray(scene()).convert("L"), "JPEG"), min_pixels=600)
    assert grey.shape == (20, 30, 3) and np.ptp(grey.astype(int), axis=2).max() == 0
    assert decode_image(encode(scene(), "PNG"), min_pixels=1).shape == (40, 60, 3)


def test_16_bit_grey_keeps_its_upper_half():
    deep = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for kind in ("PNG", "TIFF"):
        ours = decode_image(encode(deep, kind))
        assert_close(ours, np.repeat((deep >> 8)[..., None], 3, axis=2), mean=0)


def test_32_bit_grey_is_stretched():
    for deep in (np.linspace(-3, 5, 256, dtype=np.float32), np.arange(0, 2560, 10, dtype=np.int32)):
        ours = decode_image(encode(deep.reshape(16, 16), "TIFF"))
        assert_close(ours, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2), mean=1)
    holes = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    holes[0, 0] = np.nan
    assert decode_image(encode(holes, "TIFF")).max() == 255
    with pytest.raises(BrokenImage, match="cannot be decoded"):
        decode_image(encode(np.full((4, 4), np.nan, dtype=np.float32), "TIFF"))


def test_transparent_pixels_become_mid_grey():
    rgba = np.dstack([scene(), np.full(scene().shape[:2], 255, np.uint8)])
    rgba[:, :30, 3] = 0
    expected = scene()
    expected[:, :30] = 128
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert_close(decode_image(encode(rgba, kind, **options)), expected, mean=0)
    half = Image.fromarray(np.dstack([np.full((2, 2), 228, np.uint8), np.full((2, 2), 128, np.uint8)]), "LA")
    assert abs(int(decode_image(encode(half))[0, 0, 0]) - 178) <= 1


def test_a_transparent_palette_entry_becomes_mid_grey():
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0] + [0] * 762)
    assert decode_image(encode(image, transparency=0)).tolist() == [[[128, 128, 128], [0, 255, 0]]]


def test_of_several_frames_the_first_is_taken():
    frames = [Image.fromarray(np.full((5, 5, 3), value, dtype=np.uint8)) for value in (10, 200)]
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert (decode_image(data) == 10).all()


# --- what is broken


def reason(data: bytes, **options) -> str:
    with pytest.raises(BrokenImage) as error:
        decode_image(data, "some/name", Reading(**options))
    assert error.value.name == "some/name" and str(error.value) == f"some/name: {error.value.reason}"
    return error.value.reason


def test_reasons():
    assert reason(b"") == "empty file"
    assert reason(b"just some text, no picture") == "not an image"
    assert reason(b"<html>" + encode(scene())) == "not an image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "GIF"])
def test_truncated_files_are_found_out(kind):
    data = encode(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8), kind)
    for keep in (0.3, 0.6, 0.95):
        assert reason(data[: int(keep * len(data))]) in (
            "truncated",
            "not an image",
        )  # TIFF: header at the end


def test_a_jpeg_without_its_last_part_is_truncated_even_with_a_whole_thumbnail_before(monkeypatch):
    thumbnail = encode(scene(8, 8), "JPEG")
    exif = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = encode(scene(), "JPEG", progressive=True)
    data = data[:2] + exif + data[2:]
    decode_image(data)
    monkeypatch.setattr("cv2.imdecode", lambda *_: scene())  # as if OpenCV filled in what is missing
    assert reason(data[: int(0.8 * len(data))]) == "truncated"


def test_bytes_after_the_end_of_a_jpeg_do_no_harm():
    assert_close(decode_image(encode(scene(), "JPEG") + b"trailing bytes" * 99), scene(), mean=5)


def test_bombs_are_stopped_by_their_header():
    assert reason(encode(scene(), "JPEG"), max_pixels=40 * 60 - 1) == "too many pixels"
    decode_image(encode(scene(), "JPEG"), reading=Reading(40 * 60))
    header = bytearray(encode(np.zeros((1, 1), np.uint8), "BMP"))
    header[18:26] = (30_000).to_bytes(4, "little") * 2  # claims 900 million pixels, holds one
    assert reason(bytes(header)) == "too many pixels"


def test_what_opencv_raises_at_is_left_to_pillow(monkeypatch):
    """An image larger than OpenCV takes, for instance."""
    data = encode(scene(), "JPEG")
    expected = decode_image(data)

    def refuse(*_):
        raise cv2.error("too large")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    assert np.abs(decode_image(data).astype(int) - expected).max() <= 8


def test_a_file_is_named_for_what_it_is_not_for_its_ending(tmp_path):
    """As n02105855_2933.JPEG of ImageNet, a PNG, and its 22 CMYK JPEGs."""
    for data in (encode(scene(), "PNG"), encode(Image.fromarray(scene()).convert("CMYK"), "JPEG")):
        (tmp_path / "n02105855_2933.JPEG").write_bytes(data)
        assert_close(decode_image(tmp_path / "n02105855_2933.JPEG"), scene(), mean=5)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.symlink("nowhere", tmp_path / "link.jpg")
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole, no bytes on disk
    reasons = {
        "pipe.jpg": "not a file",
        "folder.jpg": "not a file",
        "link.jpg": "missing",
        "huge.jpg": "file too large",
    }
    for name, why in reasons.items():
        with pytest.raises(BrokenImage, match=why):
            decode_image(tmp_path / name, name)


def test_images_without_width_or_height_are_found_out():
    for start, length in ((0, 8), (0, 4), (4, 4)):
        png, bmp, ppm = bytearray(encode(scene(), "PNG")), bytearray(encode(scene(), "BMP")), encode(scene(), "PPM")
        png[16 + start : 16 + start + length] = bytes(length)
        png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
        bmp[18 + start : 18 + start + length] = bytes(length)
        assert reason(bytes(png)) == reason(bytes(bmp)) == "zero size"
        assert reason(ppm.replace(b"60 40", b"0 40")) == "not an image"


def test_garbled_files_decode_or_are_broken_and_nothing_else():
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        data = encode(scene(), kind)
        for seed in range(40):
            rng, garbled = np.random.default_rng(seed), bytearray(data)
            for place in rng.integers(0, len(data), 8):
                garbled[place] = rng.integers(256)
            try:
                image = decode_image(bytes(garbled))
            except BrokenImage:
                continue
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


@pytest.mark.parametrize("inside", [False, True])
def test_no_decoder_starts_another_program(tmp_path, monkeypatch, inside):
    """PostScript, also as the content of IPTC, whose decoder opens whatever it holds."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nquit\n%%EOF"
    fields = {(3, 20): b"\0\x0a", (3, 30): b"\0\x0a", (3, 60): b"\1\0", (3, 120): b"\1", (8, 10): postscript}
    iptc = b"".join(bytes((0x1C, *tag)) + len(data).to_bytes(2, "big") + data for tag, data in fields.items())
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    (tmp_path / "a.jpg").write_bytes(iptc if inside else postscript)
    with pytest.raises(BrokenImage, match="not an image"):
        decode_image(tmp_path / "a.jpg")
