"""Input of attention analyses: square images of one size."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from cropfield.canvas import stretch
from lab.attention.points import Point
from lab.figures.feature_pictures import normalised
from pretrain.data.decode import BrokenImage, decode_image
from pretrain.errors import UserError

logger = logging.getLogger(__name__)


def middle_square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> (size, size, 3): the largest central square, resized without stretching.

    App. A says "standardized to 480x480" and not how; this is our choice.
    """
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    return stretch(square, size, size)


def check_size(size: int, patch_size: int, name: str) -> None:
    """Raise UserError unless images of `size` pixels divide into patches of the backbone `name`."""
    if size < 2 * patch_size or size % patch_size:
        near = max(2, round(size / patch_size)) * patch_size
        raise UserError(
            f"{name} has patches of {patch_size} pixels and --image-size {size} is not a multiple; use {near}"
        )


class MiddleSquares:
    """Iterates over the central squares of a source's images: normalised (3, size, size).

    Args:
        source: from `pretrain.data.images`.
        limit: most images to use, spread evenly over the source; None: all.

    `broken` counts the images that could not be read, which are also logged.
    """

    def __init__(self, source, size: int, limit: int | None = None):
        self.source, self.size, self.broken = source, size, 0
        count = len(source) if limit is None else min(limit, len(source))
        self.indices = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Tensor]:
        self.broken = 0
        for index in self.indices:
            try:
                square = middle_square(self.source.load(index), self.size)
            except BrokenImage as error:
                self.broken += 1
                logger.warning("left out: %s", error)
                continue
            yield normalised(square, 1)
        if self.broken == len(self):
            raise UserError(f"none of the {len(self)} images can be read; give others with --images")


def load_points(images: list[Path], points: list[Point], size: int) -> list[tuple[np.ndarray, Point]]:
    """Pairs of central square, uint8 (size, size, 3), and point, in order. Raises UserError if an image cannot be
    read.
    """
    try:
        squares = [middle_square(decode_image(path), size) for path in images]
    except BrokenImage as error:
        raise UserError(f"{error}: give another image with --images") from error
    count = max(len(images), len(points))
    return list(zip(squares * (count // max(1, len(squares))), points * (count // max(1, len(points))), strict=True))
