"""Draw crops of an image, and their boxes in the image and in the position field after t_s."""

import cv2
import numpy as np

from cropfield.canvas import PAPER, as_rgb, blend, color_of, draw_box, draw_tag, fit, stretch

GRID_LINE = (222, 222, 222)


def boxes_on_image(image: np.ndarray, boxes: np.ndarray, side: int = 320) -> np.ndarray:
    """Draw and number boxes (n, 4) in [0, 1]^2 on the image, stretched to a square like its coordinates.

    A flipped box (x0 > x1) is dashed.
    """
    canvas = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    return _with_boxes(canvas, boxes)


def boxes_in_field(
    image: np.ndarray, image_boxes: np.ndarray, boxes: np.ndarray, cells: int, side: int = 320
) -> np.ndarray:
    """Draw boxes (n, 4) in the field's unit square, `cells` a side, over the image as moved and scaled by t_s.

    Outside A, the smallest rectangle around the boxes, the image is faded.
    """
    canvas = np.full((side, side, 3), PAPER, dtype=np.uint8)
    for line in np.linspace(0, side - 1, cells + 1).round().astype(int):
        canvas[line], canvas[:, line] = GRID_LINE, GRID_LINE
    (low, high), (image_low, image_high) = bounds(boxes), bounds(image_boxes)
    factor = (high - low) / (image_high - image_low)
    origin = low - factor * image_low
    width, height = np.maximum(1, np.rint(side * factor)).astype(int)
    image = stretch(image, width, height)  # to whole pixels; warpAffine alone aliases where it shrinks
    scale = side * factor / (width, height)
    matrix = np.array([[scale[0], 0, side * origin[0]], [0, scale[1], side * origin[1]]])
    moved = cv2.warpAffine(image, matrix, (side, side))
    covered = cv2.warpAffine(np.ones((height, width), np.float64), matrix, (side, side), flags=cv2.INTER_NEAREST)
    inside = np.zeros((side, side))
    x0, y0, x1, y1 = np.rint(np.concatenate([low, high]) * side).astype(int)
    inside[y0:y1, x0:x1] = 1
    canvas = blend(canvas, moved, (covered * (0.22 + 0.78 * inside))[..., None])
    return _with_boxes(canvas, boxes)


def bounds(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper left and lower right corner (x, y) of the smallest rectangle around boxes (n, 4), flipped or not."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 2)
    return corners.min(0), corners.max(0)


def crop_tile(crop, index: int, flipped: bool, side: int = 150) -> np.ndarray:
    """A crop, uint8 (3, S, S), numbered and framed in its box's colour; dashed if it is flipped."""
    tile = fit(as_rgb(crop), side)
    draw_box(tile, (1, 1, tile.shape[1] - 2, tile.shape[0] - 2), color_of(index), 3, flipped)
    draw_tag(tile, str(index + 1), (0, 0), color_of(index))
    return tile


def _with_boxes(canvas: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    height, width = canvas.shape[:2]
    pixels = np.asarray(boxes) * (width, height, width, height)
    for index, box in enumerate(pixels):
        draw_box(canvas, box, color_of(index), 2, dashed=box[0] > box[2])
    for index, box in enumerate(pixels):  # tags last, so that no outline crosses them
        draw_tag(canvas, str(index + 1), (min(box[0], box[2]), min(box[1], box[3])), color_of(index), size=12)
    return canvas
