"""Draw what each kind of mask hides from the student: content, or position."""

import cv2
import numpy as np
from torch import Tensor

from cropfield.canvas import as_rgb, blend, enlarge

GREY = (128, 128, 128)
TINT = (0, 114, 178)


def content_mask_picture(crop, mask, patch_size: int, factor: int = 2) -> np.ndarray:
    """The crop with masked patches greyed out: the student sees their position, not their content.

    crop: uint8 (3, S, S). mask: bool (N,), row-major. -> (factor*S, factor*S, 3); unmasked patches are unchanged.
    """
    picture = enlarge(as_rgb(crop), factor)
    return np.where(_masked(picture, mask, patch_size * factor), np.uint8(GREY), picture)


def position_mask_picture(crop, mask, patch_size: int, factor: int = 2) -> np.ndarray:
    """The crop with masked patches tinted and crossed: the student sees their content, not their position.

    Arguments and result as in `content_mask_picture`.
    """
    picture, side = enlarge(as_rgb(crop), factor), patch_size * factor
    cross, start, end = np.zeros((side, side), np.uint8), side // 4, side - 1 - side // 4
    cv2.line(cross, (start, start), (end, end), 255, 1, cv2.LINE_AA)
    cv2.line(cross, (start, end), (end, start), 255, 1, cv2.LINE_AA)
    masked = _masked(picture, mask, side)
    crosses = np.tile(cross, (picture.shape[0] // side, picture.shape[1] // side))[..., None] / 255
    return blend(blend(picture, TINT, 0.45 * masked), (255, 255, 255), crosses * masked)


def _masked(picture: np.ndarray, mask, side: int) -> np.ndarray:
    """The mask at pixel resolution, bool (H, W, 1)."""
    grid = np.asarray(mask, dtype=bool).reshape(picture.shape[0] // side, picture.shape[1] // side)
    return enlarge(grid, side)[..., None]


def spread_by_count(masks: Tensor | None, number: int) -> list[int]:
    """Up to `number` indices of masked crops (n, N), from the smallest mask to the largest."""
    counts = np.zeros(0) if masks is None else masks.sum(1).cpu().numpy()
    masked = [crop for crop in np.argsort(counts, kind="stable").tolist() if counts[crop]]
    chosen = np.unique(np.linspace(0, len(masked) - 1, min(number, len(masked))).round().astype(int))
    return [masked[index] for index in chosen]
