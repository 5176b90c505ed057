"""Images of bands other than RGB: how they are read, what is refused, and that crops and views keep bands together."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from pretrain.data import augment, bands
from pretrain.data.crops import MultiCrop
from pretrain.data.decode import BrokenImage, decode_image, read_facts
from pretrain.data.images import open_source
from pretrain.data.reading import Reading
from pretrain.data.statistics import pixel_statistics_in
from pretrain.errors import UserError

tifffile = pytest.importorskip("tifffile")
SHAPE = (40, 60)


def noise(channels: int, dtype=np.uint8, top: int = 256) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, top, (*SHAPE, channels)).astype(dtype)


def tiff(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    planes, layout = values.transpose(2, 0, 1), "separate" if values.shape[2] > 1 else None
    tifffile.imwrite(file, planes, photometric="minisblack", planarconfig=layout, **options)
    return file.getvalue()


def png(values: np.ndarray) -> bytes:
    """RGB, RGBA or grey of 8 or 16 bits."""
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]
    return cv2.imencode(".png", np.ascontiguousarray(values[..., order]))[1].tobytes()


def decode(data: bytes, **options) -> np.ndarray:
    return decode_image(data, reading=Reading(**options))


def reason(data: bytes, **options) -> str:
    with pytest.raises(BrokenImage) as error:
        decode(data, **options)
    return error.value.reason


@pytest.mark.parametrize("channels", [2, 4, 5, 12])
def test_every_band_of_a_tiff_is_read_in_both_layouts(channels):
    values = noise(channels)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig")
    for data in (tiff(values), file.getvalue()):
        assert read_facts(data)[:4] == (60, 40, 1, channels)
        assert np.array_equal(decode(data, channels=channels), values)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_a_fourth_band_changes_no_other(kind):
    """Pillow and OpenCV multiply or divide by what they take for transparency."""
    values, file = noise(4), io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb", extrasamples=[kind])
    assert np.array_equal(decode(file.getvalue(), channels=4), values)
    assert np.array_equal(decode(png(values), channels=4), values)


def test_one_channel_is_the_luma_of_what_rgb_would_be():
    """Also of four bands that are no RGB, CMYK and transparent ones."""
    for mode in ("CMYK", "RGBA"):
        file = io.BytesIO()
        Image.fromarray(noise(4), mode).save(file, "TIFF")
        assert np.array_equal(decode(file.getvalue(), channels=1), bands.luma(decode(file.getvalue())))


def test_numbers_without_a_range_are_spread_over_those_that_are_finite():
    values = np.float32(np.arange(1000, 1256).reshape(16, 16))
    values[3, 4] = np.nan
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    grey = decode(file.getvalue())[..., 0]
    expected = np.nan_to_num(values - 1000)
    assert np.abs(grey - expected).max() <= 1


def test_16_bits_are_read_in_either_byte_order():
    values = noise(1, np.uint16, 65536)
    for order in "<>":
        file = io.BytesIO()
        tifffile.imwrite(file, values[..., 0], byteorder=order)
        assert np.array_equal(decode(file.getvalue())[..., :1], values >> 8)


def test_the_first_bands_are_taken_and_fewer_are_refused():
    data = tiff(noise(6))
    assert np.array_equal(decode(data, channels=5), noise(6)[..., :5])
    assert np.array_equal(decode(data), noise(6)[..., :3])
    assert reason(data, channels=7) == "6 of 7 bands" and reason(png(noise(3)), channels=4) == "3 of 4 bands"


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_16_bits_map_a_stated_range_to_0_and_255(channels):
    values = noise(channels, np.uint16, 6000)
    expected = np.clip((values - 1000.0) / 3000 * 255, 0, 255)
    for data in [tiff(values)] + ([png(values)] if channels < 5 else []):
        ours = decode(data, channels=channels, value_range=(1000, 4000))
        assert ours.dtype == np.uint8 and np.abs(ours - expected).max() <= 0.51
    assert np.array_equal(decode(tiff(values), channels=channels), values >> 8)  # without: the upper byte


def test_8_bits_are_left_as_they_are_by_a_range_and_grey_is_one_channel():
    assert np.array_equal(decode(png(noise(3)), value_range=(0, 4095)), noise(3))
    grey = noise(1)
    assert np.array_equal(decode(png(grey), channels=1), grey)
    jpeg = io.BytesIO()
    Image.fromarray(grey[..., 0]).save(jpeg, "JPEG", quality=95)
    one, three = (decode(jpeg.getvalue(), channels=count) for count in (1, 3))
    assert one.shape == (*SHAPE, 1) and np.array_equal(np.repeat(one, 3, axis=2), three)
    luma = np.asarray(Image.fromarray(noise(3)).convert("L"))
    assert np.abs(decode(png(noise(3)), channels=1)[..., 0].astype(int) - luma).max() <= 1


def test_a_turned_tiff_of_five_bands_is_upright():
    data = tiff(np.rot90(noise(5), 1).copy(), extratags=[(274, "H", 1, 6, True)])
    assert np.array_equal(decode(data, channels=5), noise(5))


def test_broken_and_large_tiffs_are_told(monkeypatch):
    data = tiff(noise(5))
    for keep in (0.3, 0.9):
        assert reason(data[: int(keep * len(data))], channels=5) in ("truncated", "cannot be decoded", "not an image")
    assert reason(data, channels=5, max_pixels=2399) == "too many pixels"
    assert decode(data, channels=5, max_pixels=2400).shape == (*SHAPE, 5)
    monkeypatch.setattr(bands, "_READERS", ())
    assert reason(data, channels=5) == "needs tifffile"


# --- sources


def write(folder, **files: bytes) -> str:
    for name, data in files.items():
        (folder / f"{name}.tif").write_bytes(data)
    return str(folder)


def test_what_is_left_out_is_told_with_count_and_name(tmp_path):
    root = write(tmp_path, a=png(noise(3)), b=png(noise(4)), c=tiff(noise(6)))
    assert "2 of 3 images" in (told := open_source(root).bands) and "(b.tif first, with 4)" in told
    assert not open_source(write(tmp_path, b=png(noise(3)), c=png(noise(1)))).bands


def test_bands_that_differ_or_are_not_there_are_refused_before_any_work(tmp_path, monkeypatch):
    root = write(tmp_path, a=tiff(noise(5)), b=tiff(noise(6)))
    with pytest.raises(UserError, match="bands differ between images: a.tif has 5 and b.tif 6"):
        open_source(root, channels=5)
    with pytest.raises(UserError, match="1 of 2 images .* fewer bands than in_chans=6, a.tif first, which has 5"):
        open_source(root, channels=6)
    with pytest.raises(UserError, match=r"value_range=\[9, 9\] is empty: give"):
        open_source(root, channels=5, value_range=[9, 9])
    monkeypatch.setattr(bands, "_READERS", ())
    with pytest.raises(UserError, match="a.tif is a TIFF that needs tifffile or rasterio .*: pip install tifffile"):
        open_source(write(tmp_path, b=tiff(noise(5))), channels=5)


def test_mean_and_deviation_are_those_of_all_pixels(tmp_path):
    values = [noise(5), noise(5) // 3]
    root = write(tmp_path, a=tiff(values[0]), b=tiff(values[1]), broken=b"II*\0 no image")
    mean, std, count = pixel_statistics_in(open_source(root, channels=5))
    together = np.concatenate([part.reshape(-1, 5) for part in values])
    assert count == 2 and np.allclose(mean, together.mean(0)) and np.allclose(std, together.std(0))
    with pytest.raises(UserError, match="band 1, 2 .* is constant"):
        flat = noise(3) * np.array([1, 0, 0], np.uint8)
        pixel_statistics_in(open_source(write(tmp_path, a=tiff(flat), b=tiff(flat))))


# --- crops


@pytest.mark.parametrize("channels", [2, 5, 12])
def test_all_bands_of_a_crop_show_what_its_box_says(channels):
    """A band of x and one of y: their means are the box's centre, their order its flip."""
    y, x = np.indices((200, 200)).astype(np.uint8)
    image = np.dstack([x, y] * (channels // 2) + [x] * (channels % 2))
    crops = MultiCrop(64, local_size=32, photometric=(augment.UNTOUCHED,) * 3, channels=channels)
    sample = crops(image, np.random.default_rng(0))
    for kind in ("global", "local"):
        for crop, box in zip(sample[f"{kind}_crops"], sample[f"{kind}_image_boxes"], strict=True):
            assert crop.shape[0] == channels
            for band, pixels in enumerate(crop.astype(float)):
                low, high = box[band % 2], box[2 + band % 2]
                assert abs(pixels.mean() - (200 * (low + high) / 2 - 0.5)) < 1
                first, last = (pixels[:, 0], pixels[:, -1]) if band % 2 == 0 else (pixels[0], pixels[-1])
                assert np.sign(last.mean() - first.mean()) == np.sign(high - low)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_equal_bands_stay_equal_in_every_photometric_operation(channels):
    """What acts on a band does not depend on the others, where all are alike; and nothing of colour is left."""
    image = np.repeat(noise(1), channels, axis=2)
    recipe = augment.Photometric((0.4, 0.4, 0.2, 0.1), 1.0, 1.0, 1.0, solarize_prob=1.0)
    left = recipe.for_bands(channels)
    assert left.jitter == (0.4, 0.4, 0.0, 0.0) and left.grey_prob == 0 and left.blur_prob == 1
    ours = left(image, np.random.default_rng(1)).reshape(*SHAPE, channels)
    one = left(noise(1), np.random.default_rng(1)).reshape(*SHAPE, 1)
    assert np.array_equal(ours, np.repeat(one, channels, axis=2)) and not np.array_equal(ours, image)
    assert recipe.for_bands(3) is recipe
