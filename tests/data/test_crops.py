import cv2
import numpy as np
import plain_crops
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from lab.compose.photographs import shipped_photographs
from pretrain.data.augment import UNTOUCHED
from pretrain.data.crops import MultiCrop, place_in_field, random_resized_crop_box, resize_crop, sample_scale
from pretrain.data.decode import decode_image
from pretrain.errors import UserError

PLAIN = (UNTOUCHED,) * 3
ASPECT = (3 / 4, 4 / 3)


def ramps(height: int, width: int) -> np.ndarray:
    """An image that tells where it is: red is x, green is y (0 at one edge, 255 at the other)."""
    image = np.zeros((height, width, 3))
    image[..., 0] = (np.arange(width) + 0.5) / width * 255
    image[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    return np.rint(image).astype(np.uint8)


def random_boxes(rng: np.random.Generator, n: int = 6) -> np.ndarray:
    """n boxes in the unit square, about half of them flipped."""
    low = rng.uniform(0, 0.6, (n, 2))
    high = low + rng.uniform(0.05, 0.4, (n, 2))
    boxes = np.concatenate([low, high], axis=1)
    flipped = rng.random(n) < 0.5
    boxes[flipped] = boxes[flipped][:, [2, 1, 0, 3]]
    return boxes


def surround(boxes: np.ndarray) -> np.ndarray:
    """Width and height of the smallest rectangle around all boxes."""
    corners = boxes.reshape(-1, 2)
    return corners.max(axis=0) - corners.min(axis=0)


# --- boxes in pixels


def test_crop_box_is_inside_and_within_its_ranges():
    rng = np.random.default_rng(0)
    for _ in range(500):
        x0, y0, x1, y1 = random_resized_crop_box(375, 500, (0.05, 0.32), ASPECT, rng)
        assert 0 <= x0 < x1 <= 500 and 0 <= y0 < y1 <= 375
        w, h = x1 - x0, y1 - y0
        assert 0.05 * 0.98 < w * h / (375 * 500) < 0.32 * 1.02  # rounding to whole pixels
        assert 0.74 < w / h < 1.35


def test_crop_boxes_are_distributed_as_torchvisions():
    rng, n = np.random.default_rng(0), 1200
    ours = np.array([random_resized_crop_box(60, 100, (0.32, 1.0), ASPECT, rng) for _ in range(n)])
    torch.default_generator.manual_seed(0)
    canvas = torch.empty(1, 60, 100)
    theirs = np.array([RandomResizedCrop.get_params(canvas, [0.32, 1.0], list(ASPECT)) for _ in range(n)])
    top, left, height, width = theirs.T
    theirs = np.stack([left, top, left + width, top + height], axis=1)
    for a, b in zip(ours.T, theirs.T, strict=True):
        error = np.sqrt((a.var() + b.var()) / n)
        assert abs(a.mean() - b.mean()) < 4.5 * error
        assert abs(a.std() / b.std() - 1) < 0.12


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(10, 100, (43, 0, 56, 10)), (100, 10, (0, 43, 10, 56)), (1, 1, (0, 0, 1, 1)), (1, 50, (24, 0, 25, 1))],
)
def test_an_image_where_nothing_fits_gives_the_centre(height, width, expected):
    rng = np.random.default_rng(0)
    assert random_resized_crop_box(height, width, (0.99, 1.0), ASPECT, rng) == expected


# --- boxes in the field


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_placed_boxes_stay_inside_and_keep_their_relative_geometry(dtype):
    rng = np.random.default_rng(0)
    for _ in range(200):
        boxes = random_boxes(rng).astype(dtype)
        placed = place_in_field(boxes, rng.uniform(0.2, 1), rng)
        assert placed.dtype == dtype and placed.min() >= 0 and placed.max() <= 1
        # One scale and one shift explain every corner; signs (flips) are part of it.
        factor = (surround(placed) / surround(boxes)).mean()
        shift = (placed - factor * boxes).reshape(-1, 2)
        np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-5)
        np.testing.assert_array_equal(placed[:, 0] > placed[:, 2], boxes[:, 0] > boxes[:, 2])


def test_placement_is_the_plain_one():
    rng = np.random.default_rng(0)
    for place in range(200):
        boxes, scale = random_boxes(rng, n=1 + place % 6), rng.uniform(0.05, 1)
        across, down = np.random.default_rng(place).random(2)
        expected = plain_crops.place_in_field(boxes, scale, across, down)
        np.testing.assert_allclose(place_in_field(boxes, scale, np.random.default_rng(place)), expected, atol=1e-12)


def test_the_surrounding_rectangle_gets_area_s_unless_capped():
    rng, capped = np.random.default_rng(0), 0
    for _ in range(300):
        boxes, s = random_boxes(rng, n=3), rng.uniform(0.05, 1)
        before, after = surround(boxes), surround(place_in_field(boxes, s, rng))
        np.testing.assert_allclose(after[0] / after[1], before[0] / before[1])
        if np.isclose(after.max(), 1):
            capped += 1
            assert after.prod() <= s + 1e-9
        else:
            np.testing.assert_allclose(after.prod(), s)
    assert 0 < capped < 300


def test_placement_is_uniform_where_it_fits():
    rng = np.random.default_rng(0)
    box = np.array([[0.9, 0.1, 0.4, 0.6]])
    corner = np.array([place_in_field(box, 0.25, rng)[0, [2, 1]] for _ in range(4000)])
    assert corner.min() < 0.005 and corner.max() > 0.495  # side 0.5, so low corners fill [0, 0.5]
    np.testing.assert_allclose(corner.mean(axis=0), 0.25, atol=0.01)
    assert abs(np.corrcoef(corner.T)[0, 1]) < 0.1  # across and down on their own


def test_scale_none_leaves_boxes_as_they_are_and_no_area_is_an_error():
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng)
    np.testing.assert_array_equal(place_in_field(boxes, None, rng), boxes)
    with pytest.raises(ValueError, match="no area"):
        place_in_field(np.array([[0.2, 0.1, 0.2, 0.5]]), 0.5, rng)


def test_scale_distributions():
    rng = np.random.default_rng(0)
    beta = np.array([sample_scale("beta", rng) for _ in range(4000)])
    uniform = np.array([sample_scale("uniform", rng) for _ in range(4000)])
    for draws in (beta, uniform):
        assert draws.min() >= 0.2 and draws.max() <= 1
    np.testing.assert_allclose(beta.mean(), 0.2 + 0.8 * 2 / 7, atol=0.01)
    np.testing.assert_allclose(uniform.mean(), 0.6, atol=0.015)
    assert sample_scale("constant", rng) == 1.0 and sample_scale("off", rng) is None
    with pytest.raises(UserError, match="beta, uniform, constant, off"):
        sample_scale("gamma", rng)


# --- pixels


@pytest.mark.parametrize("box", [(0, 0, 320, 240), (17, 5, 300, 211), (40, 50, 90, 95), (3, 3, 4, 4)])
def test_resizing_is_pillows_antialiased_bicubic(box):
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    expected = Image.fromarray(image).crop(box).resize((64, 64), Image.BICUBIC)
    ours = resize_crop(image, box, 64)
    assert ours.flags.c_contiguous
    assert np.abs(ours.astype(int) - np.asarray(expected)).max() <= 2


def test_crops_of_a_reduced_jpeg_are_those_of_the_whole():
    """Reduced as far as `min_pixels` allows, with the same boxes: less than a grey level in the mean."""
    photograph = next(p.pixels for p in shipped_photographs(1000) if p.name == "china.jpg")
    large = np.tile(photograph, (4, 3, 1))  # as sharp as the photograph: an enlarged one would say little
    data = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    crops = MultiCrop(photometric=PLAIN)
    whole, reduced = decode_image(data), decode_image(data, min_pixels=crops.min_pixels)
    height, width = reduced.shape[:2]
    assert crops.min_pixels == 4 * 184_320 and width == whole.shape[1] // 2
    rng, errors = np.random.default_rng(0), []
    for scale, size in (((0.32, 1.0), 224), *[((0.05, 0.32), 96)] * 4):
        box = np.array(random_resized_crop_box(height - 1, width, scale, ASPECT, rng))
        expected = resize_crop(whole, tuple(2 * box), size)
        errors.append(np.abs(resize_crop(reduced, tuple(box), size).astype(int) - expected).mean())
    assert np.mean(errors) < 1


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_crops_box_is_where_its_pixels_come_from(flip):
    crops = MultiCrop(64, num_local=8, local_size=32, flip=flip, photometric=PLAIN)
    sample = crops(ramps(375, 500), np.random.default_rng(0))
    for kind in ("global", "local"):
        for crop, (x0, y0, x1, y1) in zip(sample[f"{kind}_crops"], sample[f"{kind}_image_boxes"], strict=True):
            assert (x0 > x1) == bool(flip)
            centres = (np.arange(crop.shape[-1]) + 0.5) / crop.shape[-1]
            expected_x = 255 * (x0 + centres * (x1 - x0))
            expected_y = 255 * (y0 + centres * (y1 - y0))
            inner = slice(2, -2)  # at the crop's edge the kernel meets no more pixels
            np.testing.assert_allclose(crop[0].mean(axis=0)[inner], expected_x[inner], atol=1)
            np.testing.assert_allclose(crop[1].mean(axis=1)[inner], expected_y[inner], atol=1)


def test_a_flip_mirrors_the_pixels_and_swaps_the_boxs_sides():
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    straight, flipped = (
        MultiCrop(32, local_size=16, flip=flip, photometric=PLAIN)(image, np.random.default_rng(5))
        for flip in (0.0, 1.0)
    )
    for kind in ("global", "local"):
        np.testing.assert_array_equal(flipped[f"{kind}_crops"], np.flip(straight[f"{kind}_crops"], axis=-1))
        for boxes in (f"{kind}_boxes", f"{kind}_image_boxes"):
            np.testing.assert_array_equal(flipped[boxes], straight[boxes][:, [2, 1, 0, 3]])


@pytest.mark.parametrize("distribution", ["beta", "off"])
def test_without_flip_field_pixels_are_flipped_and_boxes_are_not(distribution):
    image = np.random.default_rng(2).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    options = dict(local_size=16, scale_distribution=distribution, photometric=PLAIN)
    mirrored, as_it_is, straight = (
        MultiCrop(32, **options, **own)(image, np.random.default_rng(3))
        for own in (dict(flip=1.0), dict(flip=1.0, flip_field=False), dict(flip=0.0))
    )
    for kind in ("global", "local"):
        np.testing.assert_array_equal(as_it_is[f"{kind}_crops"], mirrored[f"{kind}_crops"])
        for boxes in (f"{kind}_boxes", f"{kind}_image_boxes"):
            np.testing.assert_array_equal(as_it_is[boxes], straight[boxes])


def test_shapes_types_and_ranges():
    image = ramps(50, 70)
    sample = MultiCrop(48, num_global=3, local_size=16, num_local=5)(image, np.random.default_rng(0))
    assert sample["global_crops"].shape == (3, 3, 48, 48) and sample["global_crops"].dtype == np.uint8
    assert sample["local_crops"].shape == (5, 3, 16, 16) and sample["local_crops"].dtype == np.uint8
    for kind, n in (("global", 3), ("local", 5)):
        for boxes in (sample[f"{kind}_boxes"], sample[f"{kind}_image_boxes"]):
            assert boxes.shape == (n, 4) and boxes.dtype == np.float32
            assert boxes.min() >= 0 and boxes.max() <= 1
    assert not any("local" in key for key in MultiCrop(48, num_local=0)(image, np.random.default_rng(0)))


def test_all_crops_of_an_image_move_through_the_field_together():
    sample = MultiCrop(32, local_size=16)(ramps(60, 80), np.random.default_rng(2))
    image_boxes = np.concatenate([sample["global_image_boxes"], sample["local_image_boxes"]])
    boxes = np.concatenate([sample["global_boxes"], sample["local_boxes"]])
    factor = (surround(boxes) / surround(image_boxes)).mean()
    shift = (boxes - factor * image_boxes).reshape(-1, 2)
    assert factor < 0.999
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-6)


def test_with_t_s_off_both_boxes_are_the_same():
    sample = MultiCrop(32, local_size=16, scale_distribution="off")(ramps(60, 80), np.random.default_rng(2))
    np.testing.assert_array_equal(sample["local_boxes"], sample["local_image_boxes"])


def test_views_get_their_own_photometric():
    def paint(value):
        return lambda crop, rng: np.full_like(crop, value)

    crops = MultiCrop(16, num_global=3, local_size=8, num_local=2, photometric=(paint(1), paint(2), paint(3)))
    sample = crops(ramps(40, 40), np.random.default_rng(0))
    assert sample["global_crops"].max(axis=(1, 2, 3)).tolist() == [1, 2, 2]
    assert sample["local_crops"].max(axis=(1, 2, 3)).tolist() == [3, 3]


@pytest.mark.parametrize("height, width", [(1, 1), (2, 900), (900, 2)])
def test_the_smallest_and_narrowest_images_can_be_cropped(height, width):
    sample = MultiCrop(32, local_size=16)(ramps(height, width), np.random.default_rng(0))
    assert sample["global_crops"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale_distribution": "gamma"},
        {"global_scale": (0.5, 1.5)},
        {"local_scale": (0.3, 0.1)},
        {"aspect": (0, 1)},
    ],
)
def test_values_out_of_range_are_refused_at_once(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        MultiCrop(**wrong)


def test_the_defaults_are_dinov2s():
    crops = MultiCrop()
    assert (crops.num_global, crops.global_size, crops.global_scale) == (2, 224, (0.32, 1.0))
    assert (crops.num_local, crops.local_size, crops.local_scale) == (8, 96, (0.05, 0.32))
    assert (crops.aspect, crops.flip, crops.scale_distribution) == (ASPECT, 0.5, "beta")
    assert MultiCrop(num_global=1, num_local=0, global_size=1, local_size=1).num_global == 1  # the least that there is


# --- many images: what is drawn anew, and for what


def crops_of(image: np.ndarray, count: int = 300, **options) -> dict[str, np.ndarray]:
    """Boxes of `count` calls, each with a generator of its own: (count, crops, 4)."""
    crops = MultiCrop(8, local_size=8, num_local=3, photometric=PLAIN, **options)
    samples = [crops(image, np.random.default_rng(seed)) for seed in range(count)]
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0] if key.endswith("boxes")}


def areas(boxes: np.ndarray) -> np.ndarray:
    return np.abs((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))


def test_global_and_local_crops_have_their_own_ranges_of_area():
    boxes = crops_of(ramps(150, 200))
    large, small = areas(boxes["global_image_boxes"]), areas(boxes["local_image_boxes"])
    assert 0.31 < large.min() < 0.4 and 0.8 < large.max() <= 1
    assert 0.045 < small.min() < 0.07 and 0.28 < small.max() < 0.33


@pytest.mark.parametrize(
    "distribution, mean, deviation", [("beta", 0.429, 0.128), ("uniform", 0.6, 0.231), ("constant", 1.0, 0.0)]
)
def test_each_image_has_a_scale_of_its_own(distribution, mean, deviation):
    """Crops that reach around the whole image: the area of their rectangle in the field is s itself."""
    options = dict(global_scale=(1, 1), aspect=(1, 1), scale_distribution=distribution)
    boxes = crops_of(ramps(40, 40), **options)["global_boxes"]
    scales = np.array([surround(of_image).prod() for of_image in boxes])
    assert abs(scales.mean() - mean) < 0.05 and abs(scales.std() - deviation) < 0.03


def test_each_crop_is_flipped_by_itself():
    boxes = crops_of(ramps(40, 40), flip=0.5)
    flipped = np.concatenate([b[..., 0] > b[..., 2] for b in (boxes["global_boxes"], boxes["local_boxes"])], axis=1)
    assert (abs(flipped.mean(axis=0) - 0.5) < 0.12).all()  # four standard deviations
    assert (flipped.all(axis=1) | ~flipped.any(axis=1)).mean() < 0.15  # 1/16 of the images


def test_aspects_are_log_uniform():
    rng = np.random.default_rng(0)
    boxes = np.array([random_resized_crop_box(3000, 3000, (0.05, 0.1), ASPECT, rng) for _ in range(4000)])
    logs = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])) / np.log(ASPECT[1])
    assert abs(logs.mean()) < 0.04 and abs(logs.std() - 3**-0.5) < 0.03
