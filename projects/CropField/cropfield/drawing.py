"""Draw objects on an image: boxes, masks, names and scores.

Unlike Detectron2's Visualizer it keeps holes in masks, does not cut off names at the border and accepts names such as
"$x^$".
"""

from dataclasses import dataclass

import cv2
import numpy as np

from cropfield.canvas import blend, color_of, draw_box, draw_tag


@dataclass(frozen=True)
class Instance:
    """One object.

    box: (x0, y0, x1, y1) in pixels. mask: bool (H, W) or None. category: index from 0. name: of the category. score: of
    a detection, or None for ground truth.
    """

    box: tuple[float, float, float, float]
    category: int
    name: str
    mask: np.ndarray | None = None
    score: float | None = None


def draw_instances(image: np.ndarray, instances: list[Instance], factor: int = 3) -> np.ndarray:
    """Draw the objects on the image enlarged `factor` times; one colour for each category, high scores on top."""
    size = (image.shape[1] * factor, image.shape[0] * factor)
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    ordered = sorted(instances, key=lambda instance: instance.score or 0.0)
    for instance in ordered:
        if instance.mask is not None:
            canvas = _with_mask(canvas, instance.mask, color_of(instance.category))
    for instance in ordered:
        draw_box(canvas, np.multiply(instance.box, factor), color_of(instance.category), 2)
    for instance in ordered:
        score = "" if instance.score is None else f" {instance.score:.2f}"
        at = (instance.box[0] * factor, instance.box[1] * factor - 20)
        draw_tag(canvas, instance.name + score, at, color_of(instance.category), size=15)
    return canvas


def _with_mask(canvas: np.ndarray, mask: np.ndarray, color) -> np.ndarray:
    size = (canvas.shape[1], canvas.shape[0])
    large = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    filled = blend(canvas, color, 0.42 * large[..., None])
    outlines, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, outlines, -1, color, 1, cv2.LINE_AA)
    return filled
