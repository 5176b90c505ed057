"""Photometric augmentation on uint8 images (H, W, C), by OpenCV calls that never make a float image.

Each operation means what torchvision's operation of that name means, to one grey level (hue: to the 256 steps
of an 8-bit hue). The recipe is DINOv2's, on which the first paper builds (Sec. 4.1, App. B.1). Saturation, hue and grey
are of RGB; the others act on any number of bands alike.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import cv2
import numpy as np

from pretrain.errors import UserError
from pretrain.ranges import NotNegative, Positive, Range, Share

Jitter = tuple[NotNegative, NotNegative, NotNegative, Annotated[float, Range(0, 0.5)]]

GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
IDENTITY = np.eye(3)
LEAST_BLUR_WEIGHT = 1e-3  # of a pixel's neighbour; times 255, a quarter of a grey level
BLUR_PROBS = {  # (first global crop, further global crops, local crops)
    "effect": (0.0, 0.9, 0.5),
    "nominal": (1.0, 0.1, 0.5),
}


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply every level by `factor` >= 0."""
    return cv2.convertScaleAbs(image, alpha=factor)  # half the time of a look-up table


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Move every level away from (`factor` > 1) or towards (< 1) the image's mean grey; of other bands, their mean."""
    is_rgb = image.ndim == 3 and image.shape[2] == 3
    mean = GREY_WEIGHTS @ cv2.mean(image)[:3] if is_rgb else cv2.mean(image.reshape(len(image), -1))[0]
    mean = int(mean + 0.5)
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * mean)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Move every pixel away from (`factor` > 1) or towards (< 1) its own grey: a linear map of RGB."""
    return cv2.transform(image, factor * IDENTITY + (1 - factor) * GREY_WEIGHTS)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by `shift` in [-0.5, 0.5] of a full circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # "full": the circle has 256 levels, and uint8 wraps
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def to_grey(image: np.ndarray) -> np.ndarray:
    """Replace every pixel by its grey, in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def gaussian_blur(image: np.ndarray, sigma: float, kernel_size: int = 9) -> np.ndarray:
    """Blur with a Gaussian of `sigma` pixels, cut to `kernel_size`; beyond the border the image is mirrored.

    Weights that move no grey level are left out: most of a narrow Gaussian's are so small that float32 holds them
    only as subnormal numbers, which take a processor 40 times as long. `cv2.sepFilter2D` takes a third of the time of
    `cv2.GaussianBlur` and differs by one level at most.
    """
    kernel = cv2.getGaussianKernel(kernel_size, sigma)
    kernel = kernel[kernel[:, 0] > LEAST_BLUR_WEIGHT]
    if len(kernel) == 1:
        return image
    kernel /= kernel.sum()
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


def solarize(image: np.ndarray, threshold: int = 128) -> np.ndarray:
    """Invert every level at or above `threshold`."""
    levels = np.arange(256)
    return cv2.LUT(image, np.where(levels >= threshold, 255 - levels, levels).astype(np.uint8))


@dataclass
class Photometric:
    """Colour jitter, grey, blur and solarise, in this order, each with its own probability.

    `jitter`: strengths of brightness, contrast, saturation (factors from [1 - a, 1 + a]) and hue (shift from
    [-a, a]), applied in random order. `blur_sigma`: range in pixels of the output crop. The defaults leave
    blur and solarise off.
    """

    jitter: Jitter = (0.4, 0.4, 0.2, 0.1)
    jitter_prob: Share = 0.8
    grey_prob: Share = 0.2
    blur_prob: Share = 0.0
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    blur_kernel: Annotated[int, Range(1, 255)] = 9
    solarize_prob: Share = 0.0
    solarize_threshold: Annotated[int, Range(0, 256)] = 128

    def __post_init__(self):
        self.jitter, self.blur_sigma = tuple(self.jitter), tuple(self.blur_sigma)  # a config's lists are slow
        if self.blur_kernel % 2 == 0:
            raise UserError(f"blur_kernel {self.blur_kernel} would move the image by half a pixel: give an odd number")

        if self.blur_sigma[0] > self.blur_sigma[1]:
            raise UserError(
                f"blur_sigma {self.blur_sigma} is not a range: give two positive numbers, the smaller first"
            )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (H, W, C) -> the same, for one band (H, W); `image` is left as it was."""
        if rng.random() < self.jitter_prob:
            image = self._color_jitter(image, rng)
        if rng.random() < self.grey_prob:
            image = to_grey(image)
        if rng.random() < self.blur_prob:
            image = gaussian_blur(image, rng.uniform(*self.blur_sigma), self.blur_kernel)
        if rng.random() < self.solarize_prob:
            image = solarize(image, self.solarize_threshold)
        return image

    def for_bands(self, channels: int) -> "Photometric":
        """What is left for images of `channels` bands: no saturation, hue and grey where these are not RGB."""
        if channels == 3:
            return self
        return replace(self, jitter=(*self.jitter[:2], 0.0, 0.0), grey_prob=0.0)

    def _color_jitter(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
        neutral = (1.0, 1.0, 1.0, 0.0)
        for i in rng.permutation(4):
            amount = neutral[i] + rng.uniform(-self.jitter[i], self.jitter[i])
            if self.jitter[i] > 0:
                image = operations[i](image, amount if i == 3 else max(amount, 0.0))
        return image


UNTOUCHED = Photometric(jitter_prob=0.0, grey_prob=0.0)


def no_photometric() -> tuple[Photometric, Photometric, Photometric]:
    """The recipe of I-JEPA: colours stay as they are in all crops."""
    return UNTOUCHED, UNTOUCHED, UNTOUCHED


def jitter_photometric(
    jitter: Jitter = (0.4, 0.4, 0.2, 0.05),
) -> tuple[Photometric, Photometric, Photometric]:
    """Colour jitter alone, alike for all crops: for crops so small that DINOv2's blur would leave nothing of them."""
    photometric = Photometric(jitter=jitter, grey_prob=0.0)
    return photometric, photometric, photometric


def dinov2_photometric(blur: str = "effect") -> tuple[Photometric, Photometric, Photometric]:
    """The recipe for (the first global crop, further global crops, local crops).

    `blur`: "effect" blurs with probability 0 / 0.9 / 0.5, "nominal" with 1 / 0.1 / 0.5. The nominal values
    are the ones that DINOv2's recipe names; its release hands one minus them to the operator, and the paper
    builds on that release, so the effect is the default. Solarise goes to the further global crops. Raises
    `UserError` for another `blur`.
    """
    if blur not in BLUR_PROBS:
        raise UserError(f"photometric blur {blur!r} is unknown: use one of {', '.join(BLUR_PROBS)}")
    first, further, local = BLUR_PROBS[blur]
    return (
        Photometric(blur_prob=first),
        Photometric(blur_prob=further, solarize_prob=0.2),
        Photometric(blur_prob=local),
    )
