"""Attention maps of the last layer for points in images, models side by side, as in Figs. 6 and 7."""

import cv2
import numpy as np

from cropfield.canvas import colorize, column, draw_dot, fit, framed, row, text_line
from lab.attention.points import Point
from lab.attention.weights import patch_attention
from lab.figures.feature_pictures import normalised
from pretrain.models.vit import VisionTransformer

RED = (230, 30, 30)
LEAST_TOP = 2.0  # least top of the colour scale, in multiples of uniform attention, so that noise is not enlarged


def maps_picture(backbones: dict[str, VisionTransformer], images: list[tuple[np.ndarray, Point]], side: int = 240):
    """One row for each image, with its point as a red dot, and one column for each model -> uint8 (H, W, 3).

    Args:
        backbones: by the title of their column.
        images: pairs of a square image, uint8 (S, S, 3), with S a multiple of each backbone's patch size, and a query
            point.
    """
    most = side // 7  # characters in a title, about 7 pixels wide at 14 points
    names = [name if len(name) <= most else f"{name[: most - 1]}…" for name in ["query", *backbones]]
    rows = [row([text_line(name, side, 2, 14) for name in names])]
    for image, point in images:
        picture = fit(image, side)
        _dot(picture, point)
        tiles = [column([picture, text_line("", side, 0, 14)], gap=0)]
        for backbone in backbones.values():
            attention = patch_attention(backbone, normalised(image, backbone.patch_size), [point])[0].cpu().numpy()
            tiles.append(map_tile(attention, point, side))
        rows.append(row(tiles))
    return framed(rows)


def map_tile(attention: np.ndarray, point: Point, side: int) -> np.ndarray:
    """Attention (H, W) in multiples of uniform -> (side + LINE, side, 3): one square for each patch, and the scale
    below.

    Dark is zero; yellow is the 99.5th percentile or twice uniform, whichever is larger, so that a single strong patch
    does not darken the rest.
    """
    top = max(LEAST_TOP, float(np.quantile(attention, 0.995)))
    colors = colorize(attention, 0, top, cv2.COLORMAP_VIRIDIS)
    picture = cv2.resize(colors, (side, side), interpolation=cv2.INTER_NEAREST)
    _dot(picture, point)
    legend = text_line(f"yellow {top:.1f} x uniform, most {attention.max():.1f} x", side, 1, 13)
    return column([picture, legend], gap=0)


def _dot(picture: np.ndarray, point: Point) -> None:
    draw_dot(picture, (point[0] * picture.shape[1], point[1] * picture.shape[0]), RED, radius=4)
