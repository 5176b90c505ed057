"""Crops of images for a frozen backbone: a square, and augmented views for training."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cropfield.canvas import stretch
from lab.probes.labelled import LabelledImages
from pretrain.data.crops import random_resized_crop_box
from pretrain.data.decode import BrokenImage


def central_square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> (size, size, 3): central crop after resizing the shorter side to 8/7 of `size`."""
    scale = size * 8 / 7 / min(image.shape[:2])
    width, height = (max(size, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    resized = stretch(image, width, height)
    top, left = (height - size) // 2, (width - size) // 2
    return resized[top : top + size, left : left + size]


def whole_square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> (size, size, 3): the whole image, stretched if it is not square."""
    return stretch(image, size, size)


def random_square(image: np.ndarray, size: int, rng: np.random.Generator, least_area: float = 0.08) -> np.ndarray:
    """uint8 (H, W, 3) -> (size, size, 3): random crop of area `least_area` to 1, aspect 3/4 to 4/3, randomly flipped.

    torchvision's `RandomResizedCrop` and flip with its defaults, as in VISSL's linear evaluation.
    """
    x0, y0, x1, y1 = random_resized_crop_box(*image.shape[:2], (least_area, 1.0), (3 / 4, 4 / 3), rng)
    square = stretch(image[y0:y1, x0:x1], size, size)
    return np.ascontiguousarray(square[:, ::-1]) if rng.random() < 0.5 else square


def view(image: np.ndarray, size: int, framing: str, place: int, rng: np.random.Generator) -> np.ndarray:
    """View number `place` of an image for training, uint8 (size, size, 3); number 0 is the view for testing.

    framing: "centre": the central square, then `random_square`s. "whole": the whole image and its mirror image in turn,
    for tasks that a crop would change (counting objects).
    """
    if framing == "whole":
        square = whole_square(image, size)
        return np.ascontiguousarray(square[:, ::-1]) if place % 2 else square
    return random_square(image, size, rng) if place else central_square(image, size)


class FramedImages(Dataset):
    """Item v * len(indices) + i -> view v of image indices[i], uint8 (3, S, S), and i; -1 instead of i if broken.

    A view is a function of the seed, its number and the image.
    """

    def __init__(
        self,
        images: LabelledImages,
        indices: list[int] | range,
        image_size: int,
        framing: str = "centre",
        views: int = 1,
        seed: int = 0,
    ):
        self.images, self.indices, self.image_size = images, indices, image_size
        self.framing, self.views, self.seed = framing, views, seed

    def __len__(self) -> int:
        return self.views * len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        place, i = divmod(item, len(self.indices))
        index = self.indices[i]
        try:
            image = self.images.load(index)
        except BrokenImage:
            return torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8), -1
        square = view(image, self.image_size, self.framing, place, np.random.default_rng((self.seed, place, index)))
        return torch.from_numpy(square).permute(2, 0, 1), i
