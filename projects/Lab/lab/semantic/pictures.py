"""Semantic segmentation drawn: label maps over their image, columns with titles, the classes' colours."""

import colorsys

import numpy as np

from cropfield.canvas import INK, PALETTE, PAPER, blend, column, row, write

IGNORE = 255


def class_color(label: int) -> tuple[int, int, int]:
    """The palette's colours first, then hues a golden ratio apart, so that 150 classes differ as far as they can."""
    if label < len(PALETTE):
        return PALETTE[label]
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.55 + 0.4 * (label % 2), 0.9 - 0.12 * (label % 3))
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_labels(image: np.ndarray, labels: np.ndarray, background: bool = False, share: float = 0.6) -> np.ndarray:
    """Classes as colours over a greyed image.

    Args:
        image: RGB uint8 (H, W, 3).
        labels: (H, W), 255 where none counts: black.
        background: leave class 0 grey.
        share: of the colours.
    """
    colors = np.zeros((256, 3))
    colors[:IGNORE] = [class_color(label) for label in range(IGNORE)]
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    painted = blend(grey, colors[labels], share)
    return np.where((labels == 0)[..., None], grey.astype(np.uint8), painted) if background else painted


def side_by_side(rows: list[list[np.ndarray]], titles: list[str], names: dict[int, str]) -> np.ndarray:
    """A grid of equally large tiles (H, W, 3) under their columns' titles, and below it the classes that occur.

    Args:
        rows: the tiles, a list for each image.
        titles: of the columns.
        names: of the classes, by label.
    """
    width = rows[0][0].shape[1]
    heads = [_line([(title, INK)], width) for title in titles]
    grid = column([row(heads), *(row(tiles) for tiles in rows)])
    words = [(name, class_color(label)) for label, name in names.items()]
    return column([grid, *_legend(words, grid.shape[1])])


def _legend(words: list[tuple[str, tuple]], width: int) -> list[np.ndarray]:
    """Lines of coloured names that fit into `width` pixels."""
    lines, used = [[]], 0
    for word in words:
        wide = 10 * len(word[0]) + 24
        if used + wide > width and lines[-1]:
            lines.append([])
            used = 0
        lines[-1].append(word)
        used += wide
    return [_line(line, width) for line in lines]


def _line(words: list[tuple[str, tuple]], width: int) -> np.ndarray:
    canvas = np.full((24, width, 3), PAPER, dtype=np.uint8)
    x = 2.0
    for text, color in words:
        x = write(canvas, text, (x, 3), color=color) + 16
    return canvas
