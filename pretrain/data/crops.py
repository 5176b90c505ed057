"""Multi-crop: the crops' pixels, their boxes in the image, and their boxes in the position field.

A box is (x0, y0, x1, y1), x to the right and y down, as shares of the image's (or field's) width and height.
A crop that was flipped has x0 > x1: its left edge shows what lies at x0. (`MultiCrop` can also leave it unflipped.)
"""

import math
from typing import Annotated

import cv2
import numpy as np
import torch

from pretrain.data.augment import Photometric, dinov2_photometric
from pretrain.errors import UserError
from pretrain.ranges import Channels, Pixels, Positive, Range, Share

SCALE_DISTRIBUTIONS = {  # of s, the area of the crops' bounding rectangle in the field (Sec. 4.3, Table 4a)
    "beta": lambda rng: 0.2 + 0.8 * rng.beta(2, 5),
    "uniform": lambda rng: rng.uniform(0.2, 1.0),
    "constant": lambda rng: 1.0,
    "off": lambda rng: None,
}


def random_resized_crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draw a crop of an image of height x width pixels -> (x0, y0, x1, y1) in whole pixels, x0 < x1, y0 < y1.

    `scale`: range of the crop's area as a share of the image's, uniform. `aspect`: range of width / height,
    log-uniform. When ten draws do not fit, the largest central crop whose aspect is in range. The
    distribution is that of torchvision's `RandomResizedCrop`.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x0, y0 = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return x0, y0, x0 + w, y0 + h
    w = min(width, max(1, round(height * aspect[1])))
    h = min(height, max(1, round(width / aspect[0])))
    x0, y0 = (width - w) // 2, (height - h) // 2
    return x0, y0, x0 + w, y0 + h


def sample_scale(distribution: str, rng: np.random.Generator) -> float | None:
    """Draw the scale s of t_s (Sec. 4.3, Table 4a).

    "beta": 0.2 + 0.8 Beta(2, 5); "uniform": on [0.2, 1]; "constant": 1; "off": None.
    Raises `UserError` for another name.
    """
    if distribution not in SCALE_DISTRIBUTIONS:
        names = ", ".join(SCALE_DISTRIBUTIONS)
        raise UserError(f"scale_distribution {distribution!r} is unknown: use one of {names}")
    return SCALE_DISTRIBUTIONS[distribution](rng)


def place_in_field(boxes: np.ndarray, scale: float | None, rng: np.random.Generator) -> np.ndarray:
    """t_s of Sec. 3.2.2: shift and scale all crops of one image together within the field.

    boxes: (n, 4) float, in the image's [0, 1]^2; any may be flipped (x0 > x1). scale: s, the area that A
    gets, A being the smallest rectangle around all boxes; None leaves the boxes as they are. Everything is
    scaled by sqrt(s / |A|), or by less where A would not fit the field (its aspect is kept), and A is then
    placed uniformly where it fits. The paper draws A around the two global crops; local crops read the field
    too, so here A is around all of them.

    -> (n, 4), the same dtype, every value in [0, 1]. Raises ValueError when A has no area.
    """
    if scale is None:
        return boxes.copy()
    corners = boxes.astype(np.float64).reshape(-1, 2, 2)  # (n, 2 corners, x and y)
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    size = high - low
    if not size.min() > 0:
        raise ValueError(f"the rectangle around the boxes has no area: {low} to {high}")
    factor = min(np.sqrt(scale / size.prod()), *(1 / size))
    origin = rng.random(2) * np.maximum(1 - factor * size, 0)
    placed = origin + factor * (corners - low)
    return np.clip(placed, 0, 1).reshape(-1, 4).astype(boxes.dtype)  # clip: round-off only


def resize_crop(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Cut out `box` (in pixels) and resize it: uint8 (H, W, C) -> (size, size, C); bicubic, antialiased.

    torch's uint8 kernel: Pillow's result to one grey level, in a fifth of its time. Of OpenCV's ways,
    INTER_CUBIC is faster but aliases when it shrinks (off by 6 levels in the mean on a photograph at 0.5x),
    and INTER_AREA and a blur before INTER_CUBIC are off by 1.5 and mostly slower.
    """
    x0, y0, x1, y1 = box
    patch = torch.from_numpy(image[None, y0:y1, x0:x1].copy()).permute(0, 3, 1, 2)  # channels last
    resized = torch.nn.functional.interpolate(patch, (size, size), mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1)[0].numpy()


class MultiCrop:
    """Global and local crops of an image, with boxes, flips and photometric augmentation (Sec. 4.1).

    Sizes are in pixels, scales are ranges of area as shares of the image, `flip` is a probability.
    `flip_field`: the box of a flipped crop is flipped too (x0 > x1), so that each patch keeps the place of what
    it shows; False flips the pixels alone. The paper does not say which.
    `scale_distribution`: see `sample_scale`; one s is drawn per image and shared by all its crops.
    `photometric`: three `Photometric`s, for the first global crop, further global crops and local crops; None
    is DINOv2's. `channels`: bands of the images; other than 3 leave out the photometric operations of colour
    (`Photometric.for_bands`). Raises `UserError` for an unknown distribution and for ranges that are none.
    """

    def __init__(
        self,
        global_size: Pixels = 224,
        global_scale: tuple[Share, Share] = (0.32, 1.0),
        num_global: Annotated[int, Range(1, 1000)] = 2,
        local_size: Pixels = 96,
        local_scale: tuple[Share, Share] = (0.05, 0.32),
        num_local: Annotated[int, Range(0, 1000)] = 8,
        aspect: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        flip: Share = 0.5,
        flip_field: bool = True,
        scale_distribution: str = "beta",
        photometric: tuple[Photometric, Photometric, Photometric] | None = None,
        channels: Channels = 3,
    ):
        sample_scale(scale_distribution, np.random.default_rng(0))  # so that an unknown name fails here
        _check_range("global_scale", global_scale, 1.0)
        _check_range("local_scale", local_scale, 1.0)
        _check_range("aspect", aspect, np.inf)
        self.global_size, self.global_scale, self.num_global = global_size, tuple(global_scale), num_global
        self.local_size, self.local_scale, self.num_local = local_size, tuple(local_scale), num_local
        self.aspect, self.scale_distribution = tuple(aspect), scale_distribution
        self.flip, self.flip_field = flip, flip_field
        photometric = dinov2_photometric() if photometric is None else tuple(photometric)
        self.photometric = photometric if channels == 3 else tuple(part.for_bands(channels) for part in photometric)

    @property
    def min_pixels(self) -> int:
        """Pixels (height * width) to which an image may be reduced while it is decoded.

        Its smallest crops then still have twice the side that they are resized to, and differ from those of the full
        image by about one grey level in the mean; without the factor of two it would be up to four.
        """
        least = self.global_size**2 / self.global_scale[0]
        if self.num_local:
            least = max(least, self.local_size**2 / self.local_scale[0])
        return math.ceil(4 * least)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """image: uint8 (H, W, C) -> dict, with V = num_global and L = num_local:

        `global_crops` uint8 (V, C, Sg, Sg), `local_crops` uint8 (L, C, Sl, Sl);
        `global_image_boxes`, `local_image_boxes` float32 (V or L, 4): where each crop lies in the image;
        `global_boxes`, `local_boxes` float32 (V or L, 4): where it lies in the field, after t_s.

        No local entries when L is 0.
        """
        height, width, bands = image.shape
        scales = [self.global_scale] * self.num_global + [self.local_scale] * self.num_local
        pixel_boxes = [random_resized_crop_box(height, width, scale, self.aspect, rng) for scale in scales]
        flips = rng.random(len(scales)) < self.flip
        image_boxes = np.array(pixel_boxes) / (width, height, width, height)
        if self.flip_field:
            image_boxes[flips] = image_boxes[flips][:, [2, 1, 0, 3]]
        boxes = place_in_field(image_boxes, sample_scale(self.scale_distribution, rng), rng)

        sample = {
            "global_crops": np.empty((self.num_global, bands, self.global_size, self.global_size), np.uint8),
            "local_crops": np.empty((self.num_local, bands, self.local_size, self.local_size), np.uint8),
        }
        first, further, local = self.photometric
        views = [first] + [further] * (self.num_global - 1) + [local] * self.num_local
        outputs = [*sample["global_crops"], *sample["local_crops"]]
        crops = [resize_crop(image, box, output.shape[-1]) for box, output in zip(pixel_boxes, outputs, strict=True)]
        for crop, flipped, photometric, output in zip(crops, flips, views, outputs, strict=True):
            crop = photometric(cv2.flip(crop, 1) if flipped else crop, rng)
            cv2.split(crop, list(output))  # into place, in a quarter of the time of a transposed copy

        for kind, part in (("global", slice(self.num_global)), ("local", slice(self.num_global, None))):
            sample[f"{kind}_image_boxes"] = image_boxes[part].astype(np.float32)
            sample[f"{kind}_boxes"] = boxes[part].astype(np.float32)
        return sample if self.num_local else {key: value for key, value in sample.items() if "local" not in key}


def _check_range(name: str, bounds: tuple[float, float], top: float) -> None:
    low, high = bounds
    if not 0 < low <= high <= top:
        limit = f", at most {top:g}" if np.isfinite(top) else ""
        raise UserError(f"{name} {tuple(bounds)} is not a range: give two positive numbers, the smaller first{limit}")
