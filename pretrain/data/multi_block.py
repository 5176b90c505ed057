"""Multi-block masks of I-JEPA: in each image a few target blocks, and one context block without them."""

from collections.abc import Callable

import numpy as np
import torch

from pretrain.errors import UserError

MAX_DRAWS = 100  # of a block's size, or of an image's places, before the ranges are called impossible


def multi_block_masks(
    grid: tuple[int, int],
    num_images: int,
    rng: np.random.Generator,
    *,
    num_targets: int = 4,
    target_area: tuple[float, float] = (0.15, 0.2),
    target_aspect: tuple[float, float] = (0.75, 1.5),
    context_area: tuple[float, float] = (0.85, 1.0),
    context_aspect: tuple[float, float] = (1.0, 1.0),
    min_keep: int = 10,
    off_by_one: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Which patches an image's context encoder sees, and which blocks of patches are predicted from them.

    One size of target block and one of context block are drawn for the whole batch, places for each image. The context
    is its block without the image's targets, so that context and targets are disjoint. Where contexts differ in number,
    patches drawn at random are left out until all have as many as the smallest, for a batch needs equal lengths: on
    14 x 14 patches 57 are left in a batch of 64 images, and 46 in one of 2,048 (means of 20 batches).

    Args:
        grid: (H, W) in patches.
        target_area, context_area: ranges of a block's area as a share of the grid's, uniform.
        target_aspect, context_aspect: ranges of height / width, uniform.
        min_keep: targets and contexts have more patches than this.
        off_by_one: draw places as I-JEPA's release does, whose blocks are never as long as the grid and never touch its
            last row and column: those patches are then neither context nor target.

    Returns:
        context (num_images, N_c) and targets (num_images, num_targets, h, w), int64 indices of patches in row-major
        order.

    Raises:
        UserError: the ranges leave no target or no context of more than `min_keep` patches.
    """
    limit = (grid[0] - off_by_one, grid[1] - off_by_one)
    target_size = _block_size(grid, limit, target_area, target_aspect, min_keep, rng)
    context_size = _block_size(grid, limit, context_area, context_aspect, min_keep, rng)
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


def _block_size(grid, limit, area, aspect, min_keep: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw (h, w) with more than `min_keep` patches, at most `limit`."""
    for _ in range(MAX_DRAWS):
        patches, ratio = rng.uniform(*area) * grid[0] * grid[1], rng.uniform(*aspect)
        h = min(max(round(np.sqrt(patches * ratio)), 1), limit[0])
        w = min(max(round(np.sqrt(patches / ratio)), 1), limit[1])
        if h * w > min_keep:
            return h, w
    raise UserError(
        f"masks: no block with {area[0]:g} to {area[1]:g} of a grid of {grid[0]} x {grid[1]} has more than {min_keep} "
        "patches; use larger crops, or lower min_keep"
    )


def _place_blocks(count: tuple[int, ...], size, grid, limit, rng: np.random.Generator) -> np.ndarray:
    """Blocks of patches at uniform places inside `limit` -> indices (*count, h, w)."""
    top = rng.integers(limit[0] - size[0] + 1, size=(*count, 1, 1))
    left = rng.integers(limit[1] - size[1] + 1, size=(*count, 1, 1))
    return (top + np.arange(size[0])[:, None]) * grid[1] + left + np.arange(size[1])


def _equal_lengths(visible: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of flags (B, N) -> sorted indices (B, n), n the smallest row's number of flags.

    The others' excess is dropped at random: dropping the last ones, as I-JEPA's release does, would hide the bottom of
    most images.
    """
    order = np.argsort(np.where(visible, rng.random(visible.shape), 2.0), axis=1)
    return np.sort(order[:, : visible.sum(axis=1).min()], axis=1)


class MultiBlockMasks:
    """Multi-block masks for the batches of a loader; the arguments are those of `multi_block_masks`.

    Raises `UserError` when the ranges leave no target or no context.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        num_targets: int = 4,
        target_area: tuple[float, float] = (0.15, 0.2),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_area: tuple[float, float] = (0.85, 1.0),
        context_aspect: tuple[float, float] = (1.0, 1.0),
        min_keep: int = 10,
        off_by_one: bool = False,
    ):
        for name, (low, high), top in (
            ("target_area", target_area, 1), ("context_area", context_area, 1),
            ("target_aspect", target_aspect, np.inf), ("context_aspect", context_aspect, np.inf),
        ):  # fmt: skip
            if not 0 < low <= high <= top:
                raise UserError(f"masks: {name} {(low, high)} is not a range: give two positive numbers, at most {top}")
        if num_targets < 1 or min_keep < 0:
            raise UserError(f"masks: num_targets {num_targets} must be at least 1, min_keep {min_keep} not negative")
        self.grid = tuple(grid)
        self.ranges = dict(
            num_targets=num_targets, target_area=tuple(target_area), target_aspect=tuple(target_aspect),
            context_area=tuple(context_area), context_aspect=tuple(context_aspect),
            min_keep=min_keep, off_by_one=off_by_one,
        )  # fmt: skip
        multi_block_masks(self.grid, 1, np.random.default_rng(0), **self.ranges)  # so that the impossible fails here

    def of_batch(
        self, offsets: range, batch_size: int, num_views: int, plan_rng: np.random.Generator, crop_rng: Callable
    ) -> dict[str, torch.Tensor]:
        """-> `context_patches` int64 (V*b, N_c), `target_patches` int64 (V*b, M, h, w): indices of patches.

        All crops of the global batch are drawn at once, from `plan_rng` alone, and this process takes its own: sizes
        and lengths are the same everywhere (see `CropMasks.of_batch` for the arguments).
        """
        context, targets = multi_block_masks(self.grid, num_views * batch_size, plan_rng, **self.ranges)
        crops = [view * batch_size + offset for view in range(num_views) for offset in offsets]
        return {
            "context_patches": torch.from_numpy(context[crops]),
            "target_patches": torch.from_numpy(targets[crops]),
        }
