"""Draw semantic segmentation: label maps over images, titled columns, class colours."""

import colorsys

import numpy as np

from cropfield.canvas import INK, PALETTE, PAPER, blend, column, row, write
from lab.semantic.layout import IGNORE


def class_color(label: int) -> tuple[int, int, int]:
    """The palette's colours first, then hues a golden ratio apart, which keeps 150 classes distinct."""
    if label < len(PALETTE):
        return PALETTE[label]
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.55 + 0.4 * (label % 2), 0.9 - 0.12 * (label % 3))
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_labels(image: np.ndarray, labels: np.ndarray, background: bool = False, share: float = 0.6) -> np.ndarray:
    """Draw classes as colours over the image in grey.

    Args:
        image: RGB uint8 (H, W, 3).
        labels: (H, W); 255 (ignored) is black.
        background: leave class 0 grey.
        share: opacity of the colours.
    """
    colors = np.zeros((256, 3))
    colors[:IGNORE] = [class_color(label) for label in range(IGNORE)]
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    painted = blend(grey, colors[labels], share)
    return np.where((labels == 0)[..., None], grey.astype(np.uint8), painted) if background else painted


def side_by_side(rows: list[list[np.ndarray]], titles: list[str], names: dict[int, str]) -> np.ndarray:
    """A grid of equally large tiles (H, W, 3) with column titles, and a legend of the classes that occur.

    Args:
        rows: the tiles, a list for each image.
        titles: of the columns.
        names: of the classes, by label.
    """
    width = rows[0][0].shape[1]
    grid = column([row([_line([(title, INK)], width) for title in titles]), *(row(tiles) for tiles in rows)])
    lines, used = [[]], 0
    for label, name in names.items():
        wide = 10 * len(name) + 24
        if used + wide > grid.shape[1] and lines[-1]:
            lines.append([])
            used = 0
        lines[-1].append((name, class_color(label)))
        used += wide
    return column([grid, *(_line(line, grid.shape[1]) for line in lines)])


def _line(words: list[tuple[str, tuple]], width: int) -> np.ndarray:
    canvas = np.full((24, width, 3), PAPER, dtype=np.uint8)
    x = 2.0
    for text, color in words:
        x = write(canvas, text, (x, 3), color=color) + 16
    return canvas
