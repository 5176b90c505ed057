"""Masks of patches for masked prediction (Sec. 3.3): box-wise for content, cross-wise for positions."""

from collections.abc import Callable

import numpy as np
import torch

from pretrain.errors import UserError
from pretrain.ranges import Patches, Pixels, Share

NO_MASK, CONTENT, POSITION = 0, 1, 2
MIN_BLOCK = 4  # patches
BLOCK_ASPECT = (0.3, 1 / 0.3)


def box_mask(grid: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Box-wise mask, the blocks of BEiT and iBOT -> bool (H, W) with exactly `count` true.

    Blocks of a random area (from 4 patches to as many as are still to be masked) and aspect (0.3 to 1/0.3,
    log-uniform) fall at random places, overlaps allowed, until `count` patches are masked. None fills a whole
    row or column: the usual sampler draws such a block again, here it ends one patch short of that. The usual
    one stops when less than a smallest block is missing; here the last blocks may be smaller, and one that would
    mask too many patches loses its last ones in row-major order. Raises ValueError unless 0 <= count <= H*W.
    """
    mask = _empty(grid, count)
    missing = count
    while missing:
        area = rng.uniform(min(MIN_BLOCK, missing), missing)
        aspect = np.exp(rng.uniform(*np.log(BLOCK_ASPECT)))
        h = max(min(round(np.sqrt(area * aspect)), grid[0] - 1), 1)
        w = max(min(round(np.sqrt(area / aspect)), grid[1] - 1), 1)
        top, left = rng.integers(grid[0] - h + 1), rng.integers(grid[1] - w + 1)
        block = mask[top : top + h, left : left + w]
        rows, columns = np.nonzero(~block)
        block[rows[:missing], columns[:missing]] = True
        missing -= min(missing, len(rows))
    return mask


def cross_mask(grid: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Cross-wise mask -> bool (H, W) with exactly `count` true.

    A centre patch is drawn and its whole row and whole column are masked; further crosses follow, on rows and
    columns not yet used (neighbours merge into bands), until `count` is reached. The last cross keeps only
    the patches nearest to its centre, so that its arms end where the count is met. This is our reading of
    Fig. 4, which shows the strategy but is not described in the text; register another in `MASKS` to replace
    it. Raises ValueError unless 0 <= count <= H*W.
    """
    mask = _empty(grid, count)
    missing = count
    # min(H, W) crosses cover the grid, so the shorter of the two orders is long enough.
    for row, column in zip(rng.permutation(grid[0]), rng.permutation(grid[1]), strict=False):
        rows, columns = np.nonzero(~mask)
        on_cross = (rows == row) | (columns == column)
        rows, columns = rows[on_cross], columns[on_cross]
        distance = np.abs(rows - row) + np.abs(columns - column)
        nearest = np.lexsort((rng.random(len(rows)), distance))[:missing]
        mask[rows[nearest], columns[nearest]] = True
        missing -= len(nearest)
        if not missing:
            break
    return mask


MASKS: dict[str, Callable[[tuple[int, int], int, np.random.Generator], np.ndarray]] = {
    "box": box_mask,
    "cross": cross_mask,
}


def _empty(grid: tuple[int, int], count: int) -> np.ndarray:
    if not 0 <= count <= grid[0] * grid[1]:
        raise ValueError(f"cannot mask {count} of {grid[0]} x {grid[1]} patches")
    return np.zeros(grid, dtype=bool)


def square_grid(size: Pixels, patch_size: Pixels) -> tuple[int, int]:
    """The grid (H, W) in patches of a square crop of `size` pixels. Raises UserError unless they divide it."""
    if size % patch_size:
        raise UserError(f"crops of {size} pixels do not divide into patches of {patch_size}; choose a multiple")
    return size // patch_size, size // patch_size


class CropMasks:
    """Which global crops of a batch get which kind of mask, and how large a one (footnotes 2, 3; Table 5).

    grid: (H, W) in patches. ratio: range of the masked share of patches. content_share, position_share:
    shares of the batch's global crops; a crop has one kind or none. content_mask, position_mask: names in
    `MASKS`. Raises `UserError` when the shares exceed 1 together, the ratio is not inside (0, 1), or a name
    is unknown.
    """

    def __init__(
        self,
        grid: tuple[Patches, Patches],
        ratio: tuple[Share, Share] = (0.1, 0.5),
        content_share: Share = 0.5,
        position_share: Share = 0.5,
        content_mask: str = "box",
        position_mask: str = "cross",
    ):
        if content_share + position_share > 1 + 1e-9:
            raise UserError(
                f"content_share {content_share} and position_share {position_share} exceed 1 together: a crop has one "
                "kind of mask or none"
            )
        if not 0 < ratio[0] <= ratio[1] < 1:
            raise UserError(f"mask ratio {tuple(ratio)} is not a range inside (0, 1), such as (0.1, 0.5)")
        for name in (content_mask, position_mask):
            if name not in MASKS:
                raise UserError(f"mask {name!r} is unknown: use one of {', '.join(MASKS)}")
        if grid[0] * grid[1] < 2:
            raise UserError(f"a grid of {grid[0]} x {grid[1]} patches cannot be masked in part: use larger crops")
        self.grid, self.ratio = tuple(grid), tuple(ratio)
        self.content_share, self.position_share = content_share, position_share
        self.samplers = {CONTENT: MASKS[content_mask], POSITION: MASKS[position_mask]}

    @property
    def num_patches(self) -> int:
        """N = H*W."""
        return self.grid[0] * self.grid[1]

    def plan(self, num_crops: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Deal out kinds and counts -> (kinds, counts), both int64 (num_crops,).

        kinds: NO_MASK, CONTENT or POSITION, the shares exact up to rounding, shuffled over the batch's global
        crops. counts: masked patches, 0 for NO_MASK. Within each kind the ratios are stratified: the range is
        cut into as many equal parts as the kind has crops, and each part gives one ratio.
        """
        first = _round(self.content_share * num_crops)
        last = _round(min(self.content_share + self.position_share, 1.0) * num_crops)
        order = rng.permutation(num_crops)
        kinds, counts = np.full(num_crops, NO_MASK), np.zeros(num_crops, dtype=np.int64)
        for kind, chosen in ((CONTENT, order[:first]), (POSITION, order[first:last])):
            kinds[chosen] = kind
            counts[chosen] = self._stratified_counts(len(chosen), rng)
        return kinds, counts

    def _stratified_counts(self, n: int, rng: np.random.Generator) -> np.ndarray:
        low, high = self.ratio
        ratios = low + (high - low) * (np.arange(n) + rng.random(n)) / max(n, 1)
        return np.clip(np.rint(ratios * self.num_patches), 1, self.num_patches - 1).astype(np.int64)

    def draw(self, kind: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """One mask of `kind` -> bool (N,), row-major, exactly `count` true; all false for NO_MASK."""
        if kind == NO_MASK:
            return np.zeros(self.num_patches, dtype=bool)
        return self.samplers[kind](self.grid, count, rng).reshape(-1)

    def of_batch(
        self,
        offsets: range,
        batch_size: int,
        num_views: int,
        plan_rng: np.random.Generator,
        crop_rng: Callable[[int, int], np.random.Generator],
    ) -> dict[str, torch.Tensor]:
        """A slice of a batch's masks -> `content_masks`, `position_masks` bool (V*b, N), view-major.

        The plan is made for the whole batch, whoever has the rest of it; each crop's mask has its own random numbers.

        Args:
            offsets: the b images of the slice, as places in the global batch of `batch_size` images.
            num_views: V, global crops an image.
            plan_rng: the step's generator. crop_rng: (view, offset) -> the crop's generator.
        """
        kinds, counts = self.plan(num_views * batch_size, plan_rng)
        crops = [(view, offset, view * batch_size + offset) for view in range(num_views) for offset in offsets]
        masks = np.stack([self.draw(kinds[i], counts[i], crop_rng(view, offset)) for view, offset, i in crops])
        kinds = kinds[[i for _, _, i in crops], None]  # (V*b, 1)
        return {
            "content_masks": torch.from_numpy(masks & (kinds == CONTENT)),
            "position_masks": torch.from_numpy(masks & (kinds == POSITION)),
        }


def _round(x: float) -> int:
    """Half up, and forgiving of round-off: 0.29 * 100 is 29."""
    return int(np.floor(x + 0.5 + 1e-9))
