"""Our augmentation against torchvision's: the same distribution of what comes out, operation by operation.

Tolerance: mean and variance over N draws agree to 4.5 standard errors and `ROUNDING`.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from lab.benchmarks.data import PlainMultiCrop, plain_view
from lab.compose.photographs import shipped_photographs
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.data.augment import Photometric, dinov2_photometric
from pretrain.data.crops import MultiCrop

N = 240
ROUNDING = np.array([0.25, 0.25, 0.25, 0.25, 0.25, 0.05])  # grey levels, by statistic
NONE = dict(jitter_prob=0, grey_prob=0)


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """60 x 80 pixels, small enough to augment hundreds of times."""
    pixels = next(p.pixels for p in shipped_photographs(1000) if p.name == "chelsea.png")
    return np.asarray(Image.fromarray(pixels).resize((80, 60), Image.BICUBIC))


def statistics(images: list[np.ndarray]) -> np.ndarray:
    """(N, 6) of uint8 or float (H, W, 3) on 0..255: mean of each channel, contrast, colourfulness, sharpness."""
    rows = []
    for image in images:
        image = image.astype(np.float64)
        grey = image.mean(axis=2)
        colour = np.abs(image - grey[..., None]).mean()
        rows.append([*image.mean(axis=(0, 1)), grey.std(), colour, np.abs(np.diff(grey, axis=1)).mean()])
    return np.array(rows)


def assert_alike(ours: list[np.ndarray], plain: list[np.ndarray]):
    a, b = statistics(ours), statistics(plain)
    variance = (a.var(axis=0) / len(a)) + (b.var(axis=0) / len(b))
    error = np.abs(a.mean(axis=0) - b.mean(axis=0))
    assert (error <= 4.5 * np.sqrt(variance) + ROUNDING).all(), error
    moments = [np.mean((x - x.mean(axis=0)) ** 4, axis=0) - x.var(axis=0) ** 2 for x in (a, b)]  # of the variance
    of_variance = np.sqrt((moments[0] + moments[1]) / len(a))
    assert (np.abs(a.var(axis=0) - b.var(axis=0)) <= 4.5 * of_variance + ROUNDING).all()


def one(strength: int) -> tuple[float, ...]:
    """DINOv2's jitter with one of its four strengths."""
    return tuple(value if i == strength else 0.0 for i, value in enumerate((0.4, 0.4, 0.2, 0.1)))


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        *[(Photometric(one(i), 1.0, 0.0), transforms.ColorJitter(*one(i))) for i in range(4)],
        (Photometric(jitter_prob=0.8, grey_prob=0.2), transforms.Compose([
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8), transforms.RandomGrayscale(0.2)
        ])),
        (Photometric(**NONE, blur_prob=1.0), transforms.GaussianBlur(9, sigma=(0.1, 2.0))),
        (Photometric(**NONE, solarize_prob=0.5), transforms.RandomSolarize(128, p=0.5)),
    ],
    ids=["brightness", "contrast", "saturation", "hue", "all of jitter, grey", "blur", "solarise"],
)  # fmt: skip
def test_an_operation_is_distributed_as_torchvisions(photograph, ours, plain):
    rng, image = np.random.default_rng(1), Image.fromarray(photograph)
    torch.manual_seed(1)
    assert_alike([ours(photograph, rng) for _ in range(N)], [np.asarray(plain(image)) for _ in range(N)])


@pytest.mark.parametrize("view", [0, 1, 2])
def test_a_view_is_distributed_as_the_plain_one(photograph, view):
    """Crop, flip and all operations together: the first global crop, the second, and local ones."""
    blur, solarize = ((0.0, 0.0), (0.9, 0.2), (0.5, 0.0))[view]
    scale = (0.05, 0.32) if view == 2 else (0.32, 1.0)
    plain = plain_view(32, scale, blur, solarize)
    crops = MultiCrop(32, scale, 1, num_local=0, photometric=(dinov2_photometric()[view],) * 3)
    rng, image = np.random.default_rng(2), Image.fromarray(photograph)
    torch.manual_seed(2)
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    theirs = [(plain(image).permute(1, 2, 0) * std + mean).numpy() for _ in range(N)]
    assert_alike([crops(photograph, rng)["global_crops"][0].transpose(1, 2, 0) for _ in range(N)], theirs)


def test_the_plain_multi_crop_hands_out_two_global_and_eight_local_crops(photograph, tmp_path):
    Image.fromarray(photograph).save(tmp_path / "cat.jpg")
    crops = PlainMultiCrop()(str(tmp_path / "cat.jpg"))
    assert [tuple(crop.shape) for crop in crops] == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 8
    assert all(crop.dtype == torch.float32 and 0.01 < crop.abs().mean() < 3 for crop in crops)
