"""I-JEPA's multi-block masks: a few target blocks in each image, and one context block without them."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch

from pretrain.errors import UserError
from pretrain.ranges import Count, Patches, Positive, Range, Share, Whole

MAX_DRAWS = 100  # of a block's size, or of an image's block positions, before the ranges are refused


def block_sizes(grid, ranges, min_keep: int, off_by_one: bool, one_number: bool, rng: np.random.Generator):
    """(h, w) of a step's target blocks and of its context blocks. ranges: (area, aspect) of each."""
    limit = (grid[0] - off_by_one, grid[1] - off_by_one)
    return tuple(_block_size(grid, limit, *block, min_keep, one_number, rng) for block in ranges)


def group_masks(grid, num_images: int, num_targets: int, sizes, min_keep: int, off_by_one: bool, rng):
    """Masks of a group of images, with contexts of equal length; see `MultiBlockMasks`. sizes: from `block_sizes`."""
    limit, (target_size, context_size) = (grid[0] - off_by_one, grid[1] - off_by_one), sizes
    targets = np.empty((num_images, num_targets, *target_size), dtype=np.int64)
    visible = np.zeros((num_images, grid[0] * grid[1]), dtype=bool)
    missing = np.arange(num_images)
    for _ in range(MAX_DRAWS):
        targets[missing] = blocks = _place_blocks((len(missing), num_targets), target_size, grid, limit, rng)
        inside = np.zeros((len(missing), grid[0] * grid[1]), dtype=bool)
        context = _place_blocks((len(missing),), context_size, grid, limit, rng)
        np.put_along_axis(inside, context.reshape(len(missing), -1), True, axis=1)
        np.put_along_axis(inside, blocks.reshape(len(missing), -1), False, axis=1)
        visible[missing] = inside
        missing = missing[inside.sum(axis=1) <= min_keep]
        if not len(missing):
            return _equal_lengths(visible, rng), targets
    raise UserError(
        f"masks: {num_targets} targets of {target_size[0]} x {target_size[1]} patches on a grid of {grid[0]} x "
        f"{grid[1]} leave no context of more than {min_keep} patches; lower num_targets, target_area or min_keep"
    )


def _block_size(grid, limit, area, aspect, min_keep: int, one_number: bool, rng: np.random.Generator):
    """Draw (h, w) with more than `min_keep` patches, at most `limit`."""
    for _ in range(MAX_DRAWS):
        first = rng.random()
        second = first if one_number else rng.random()
        patches = (area[0] + first * (area[1] - area[0])) * grid[0] * grid[1]
        ratio = aspect[0] + second * (aspect[1] - aspect[0])
        h = min(max(round(np.sqrt(patches * ratio)), 1), limit[0])
        w = min(max(round(np.sqrt(patches / ratio)), 1), limit[1])
        if h * w > min_keep:
            return h, w
    raise UserError(
        f"masks: no block with {area[0]:g} to {area[1]:g} of a grid of {grid[0]} x {grid[1]} has more than {min_keep} "
        "patches; use larger crops, or lower min_keep"
    )


def _place_blocks(count: tuple[int, ...], size, grid, limit, rng: np.random.Generator) -> np.ndarray:
    """Blocks of patches at uniformly random positions inside `limit` -> indices (*count, h, w)."""
    top = rng.integers(limit[0] - size[0] + 1, size=(*count, 1, 1))
    left = rng.integers(limit[1] - size[1] + 1, size=(*count, 1, 1))
    return (top + np.arange(size[0])[:, None]) * grid[1] + left + np.arange(size[1])


def _equal_lengths(visible: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of flags (B, N) -> sorted indices (B, n), n the smallest number of flags in a row.

    Excess flags are dropped at random: dropping the last ones, as I-JEPA's release does, would hide the bottom of most
    images.
    """
    order = np.argsort(np.where(visible, rng.random(visible.shape), 2.0), axis=1)
    return np.sort(order[:, : visible.sum(axis=1).min()], axis=1)


class MultiBlockMasks:
    """The patches that the context encoder sees, and the blocks to predict from them, for a loader's batches.

    One size of target blocks and one of context blocks are drawn for all images of a step, and positions for each. The
    context is its block without the image's targets, so they are disjoint. Larger contexts are cut to the size of the
    smallest by dropping random patches.

    Args:
        grid: (H, W) in patches.
        target_area, context_area: ranges of a block's area as a fraction of the grid, uniform.
        target_aspect, context_aspect: ranges of height / width, uniform.
        min_keep: targets and contexts have more patches than this.
        group_size: number of crops whose contexts are cut to one length; larger groups have smaller contexts: on 14 x
            14 patches 59.5 patches remain with groups of 64, 56.7 with 128, 48.9 with 2,048 (200 batches of 2,048).
            StoP's release uses groups of 64, I-JEPA's of 128, which are a process's part of the batch; here they do not
            depend on the number of processes.
        off_by_one: draw positions as I-JEPA's release does: blocks are never as long as the grid and never touch its
            last row and column, whose patches are then neither context nor target.
        one_number: draw a block's area and aspect from one random number, as in the releases: small blocks are wide,
            large ones high.

    Raises:
        UserError: the ranges leave no target or no context of more than `min_keep` patches.
    """

    def __init__(
        self,
        grid: tuple[Patches, Patches],
        num_targets: Annotated[int, Range(1, 1000)] = 4,
        target_area: tuple[Share, Share] = (0.15, 0.2),
        target_aspect: tuple[Positive, Positive] = (0.75, 1.5),
        context_area: tuple[Share, Share] = (0.85, 1.0),
        context_aspect: tuple[Positive, Positive] = (1.0, 1.0),
        min_keep: Whole = 10,
        group_size: Count = 64,
        off_by_one: bool = False,
        one_number: bool = False,
    ):
        for name, (low, high), top in (
            ("target_area", target_area, 1), ("context_area", context_area, 1),
            ("target_aspect", target_aspect, np.inf), ("context_aspect", context_aspect, np.inf),
        ):  # fmt: skip
            if not 0 < low <= high <= top:
                raise UserError(f"masks: {name} {(low, high)} is not a range: give two positive numbers, at most {top}")
        if num_targets < 1 or min_keep < 0 or group_size < 1:
            raise UserError(
                f"masks: num_targets {num_targets} and group_size {group_size} must be at least 1, min_keep {min_keep} "
                "not negative"
            )
        self.grid, self.num_targets, self.group_size = tuple(grid), num_targets, group_size
        self.ranges = (tuple(target_area), tuple(target_aspect)), (tuple(context_area), tuple(context_aspect))
        self.min_keep, self.off_by_one, self.one_number = min_keep, off_by_one, one_number
        self.of_batch(range(1), 1, 1, np.random.default_rng(0), None)  # fail early on impossible ranges

    def of_batch(
        self, offsets: range, batch_size: int, num_views: int, plan_rng: np.random.Generator, crop_rng: Callable | None
    ) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        """Returns `context_patches`, int64 (n, N_c) for each group, and `target_patches`, int64 (V*b, M, h, w): patch
        indices.

        The global batch's crops, view-major, are divided into groups. Each group has its own generator, so a process
        draws only the groups that contain its crops, and processes that share a group draw the same masks. For the
        arguments see `CropMasks.of_batch`.
        """
        sizes = block_sizes(self.grid, self.ranges, self.min_keep, self.off_by_one, self.one_number, plan_rng)
        num_crops = num_views * batch_size
        rngs = plan_rng.spawn(-(-num_crops // self.group_size))
        crops = np.array([view * batch_size + offset for view in range(num_views) for offset in offsets])
        contexts, targets = [], []
        for group in np.unique(crops // self.group_size):
            first = group * self.group_size
            count = min(self.group_size, num_crops - first)
            masks = group_masks(self.grid, count, self.num_targets, sizes, self.min_keep, self.off_by_one, rngs[group])
            mine = crops[crops // self.group_size == group] - first
            for part, drawn in zip((contexts, targets), masks, strict=True):
                part.append(torch.from_numpy(drawn[mine]))
        return {"context_patches": contexts, "target_patches": torch.cat(targets)}
