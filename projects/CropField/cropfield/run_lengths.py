"""COCO run lengths: masks as lengths of alternating runs of background and foreground, column by column.

In the compressed form each character stores 5 bits (plus 48); bit 5 is set if more follow, and bit 4 of the last one is
the sign. From the fourth number on, the difference to the number two before is stored (pycocotools' maskApi).
"""

import numpy as np


class DamagedRuns(ValueError):
    """Text that is not valid compressed run lengths. `place`: index of the text."""

    def __init__(self, place: int):
        super().__init__(place)
        self.place = place


def decompress(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Compressed run lengths -> concatenated int64 run lengths, and the number of runs of each text.

    Vectorised over all texts: one NumPy call for each of a million masks would take minutes.

    Raises:
        DamagedRuns: a text is empty, has an invalid character, an unfinished number or one of more than 35 bits.
    """
    for place, text in enumerate(texts):
        if not text or not text.isascii():
            raise DamagedRuns(place)
    bits = np.frombuffer("".join(texts).encode(), np.uint8).astype(np.int64) - 48
    text_ends = np.cumsum([len(text) for text in texts])
    last = (bits & 32) == 0  # last character of a number
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    within = np.arange(len(bits)) - np.repeat(starts, np.diff(starts, append=len(bits)))
    for wrong in ((bits < 0) | (bits > 63) | (within > 6), ~last & np.isin(np.arange(len(bits)), text_ends - 1)):
        if wrong.any():
            raise DamagedRuns(int(np.searchsorted(text_ends, wrong.argmax(), side="right")))
    numbers = np.add.reduceat((bits & 31) << (5 * within), starts)
    numbers -= np.where(bits[ends] & 16, 1 << (5 * (within[ends] + 1)), 0)
    counts = np.diff(np.searchsorted(ends, text_ends - 1) + 1, prepend=0)
    return _undo_differences(numbers, counts), counts


def _undo_differences(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Cumulative sums over numbers 1, 3, 5, ... and 2, 4, 6, ... of each text; number 0 is not a difference."""
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    within = np.arange(len(numbers)) - np.repeat(firsts, counts)
    chain = 3 * np.repeat(np.arange(len(counts)), counts) + np.where(within == 0, 0, 1 + within % 2)
    order = np.argsort(chain, kind="stable")
    sums = np.cumsum(numbers[order])
    begins = np.flatnonzero(np.diff(chain[order], prepend=-1))
    before = np.concatenate([[0], sums])[begins]
    runs = np.empty_like(numbers)
    runs[order] = sums - np.repeat(before, np.diff(begins, append=len(numbers)))
    return runs


def box_of_runs(runs: np.ndarray, height: int) -> tuple[float, float, float, float]:
    """Bounding box [x, y, width, height] of a mask; all zeros if the mask is empty."""
    ends = np.cumsum(runs)
    starts, ends = (ends - runs)[1::2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(starts):
        return 0.0, 0.0, 0.0, 0.0
    left, right = starts[0] // height, (ends[-1] - 1) // height
    whole = starts // height != (ends - 1) // height  # a run that continues in the next column
    top = 0 if whole.any() else (starts % height).min()
    bottom = height - 1 if whole.any() else ((ends - 1) % height).max()
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)
