"""Sharing sources out between training and validation."""

from typing import TypeVar

import numpy as np

from lab.compose.photographs import Photograph
from lab.compose.scene import Drawable
from pretrain.errors import UserError

TRAIN_SHARE = 0.7  # of the items held out from one another, or of a photograph's longer side
Item = TypeVar("Item")


def split_photographs(
    photographs: list[Photograph], unseen: bool, rng: np.random.Generator
) -> tuple[list[Photograph], list[Photograph]]:
    """Photographs for training and for validation, no pixel in both.

    `unseen` holds out whole photographs; otherwise each is cut in two across its longer side.
    """
    if unseen:
        return hold_out(photographs, "--unseen: there is one photograph only", rng)
    halves = [cut_photograph(photograph) for photograph in photographs]
    return [a for a, _ in halves], [b for _, b in halves]


def split_drawables(
    category: str, drawables: list[Drawable], unseen: bool, rng: np.random.Generator
) -> tuple[list[Drawable], list[Drawable]]:
    """Drawables of one category for training and for validation: the same, or with `unseen` none in both."""
    if unseen:
        return hold_out(drawables, f"--unseen: category {category!r} has one cut-out only", rng)
    return drawables, drawables


def hold_out(items: list[Item], complaint: str, rng: np.random.Generator) -> tuple[list[Item], list[Item]]:
    """A random `TRAIN_SHARE` of `items`, and the rest; at least one in each. UserError on fewer than two."""
    if len(items) < 2:
        raise UserError(f"{complaint}; it takes two at least, one of them for validation.")
    order = rng.permutation(len(items))
    count = min(max(round(TRAIN_SHARE * len(items)), 1), len(items) - 1)
    return [items[i] for i in sorted(order[:count])], [items[i] for i in sorted(order[count:])]


def cut_photograph(photograph: Photograph) -> tuple[Photograph, Photograph]:
    """The first `TRAIN_SHARE` of the longer side, and the rest."""
    pixels = photograph.pixels
    axis = int(pixels.shape[1] >= pixels.shape[0])
    at = min(max(round(TRAIN_SHARE * pixels.shape[axis]), 1), pixels.shape[axis] - 1)
    first, second = np.split(pixels, [at], axis=axis)
    return Photograph(photograph.name, first), Photograph(photograph.name, second)
