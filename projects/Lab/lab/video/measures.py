"""DAVIS's metrics for masks: region similarity J and boundary measure F (Perazzi et al. 2016, Sec. 5).

The conventions follow DAVIS-2017's evaluation code, so that values are comparable with published ones: the position of
the boundary, its tolerance, the score of an empty mask, and the averaging.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

TOLERANCE = 0.008  # fraction of the image's diagonal


def region_similarity(found: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of two bool masks (H, W); 1 if both are empty."""
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def boundary_measure(found: np.ndarray, truth: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of precision and recall of boundary pixels.

    Args:
        found, truth: bool (H, W).
        tolerance: a pixel matches within `ceil(tolerance * diagonal)` pixels, Euclidean.

    Returns:
        0 to 1; 1 if neither has a boundary, 0 if only one has.
    """
    radius = math.ceil(tolerance * math.hypot(*found.shape))
    edges = boundary(found), boundary(truth)
    counts = [np.count_nonzero(edge) for edge in edges]
    if not all(counts):
        return float(not any(counts))
    precision = np.count_nonzero(edges[0] & dilate(edges[1], radius)) / counts[0]
    recall = np.count_nonzero(edges[1] & dilate(edges[0], radius)) / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a bool mask (H, W) that differ from their right, lower or lower right neighbour: a line one pixel wide.

    The border of the image is not a boundary.
    """
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != beyond[:-1, 1:]) | (mask != beyond[1:, :-1]) | (mask != beyond[1:, 1:])


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Pixels within distance `radius` of a pixel of the bool mask (H, W)."""
    steps = np.arange(-radius, radius + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(mask.astype(np.uint8), disk).astype(bool)


@dataclass(frozen=True)
class Statistics:
    """Statistics of an object's scores over a video: mean, recall (fraction of frames above 0.5), and decay over
    time.
    """

    mean: float
    recall: float
    decay: float


def summarise(values: list[float]) -> Statistics:
    """Statistics of a score over the frames of a video.

    Decay is the mean of the first quarter minus that of the last. Adjacent quarters share a frame, as in DAVIS's
    evaluation.
    """
    series = np.asarray(values)
    # numpy rounds half to even; adding 1e-10 rounds it up, as DAVIS does.
    ends = np.round(np.linspace(1, len(series), 5) + 1e-10).astype(int) - 1
    first, last = series[: ends[1] + 1], series[ends[3] :]
    return Statistics(series.mean(), (series > 0.5).mean(), first.mean() - last.mean())
