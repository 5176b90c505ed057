"""Drawing on RGB uint8 arrays (H, W, 3): enlarge, colour maps, boxes, text, tiles side by side."""

import cv2
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from cropfield.fonts import font_for
from pretrain.ranges import MOST_BANDS

# Eight colour-blind-safe hues (Okabe and Ito's, with the yellow darkened and without black), and
# a few more for datasets with many categories.
PALETTE = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 85, 160),
    (213, 94, 0),
    (86, 180, 233),
    (150, 120, 20),
    (120, 81, 169),
    (170, 30, 60),
    (90, 150, 30),
    (70, 70, 200),
    (20, 140, 150),
)
INK, PAPER = (34, 34, 34), (250, 250, 248)
LONGEST_TEXT = 500  # characters
LINE, MARGIN = 20, 8  # pixels: height of a line of text, margin around a picture


def color_of(index: int) -> tuple[int, int, int]:
    """Colour `index` of the palette, which repeats."""
    return PALETTE[index % len(PALETTE)]


def as_rgb(crop: Tensor | np.ndarray) -> np.ndarray:
    """uint8 image (C, H, W) or (H, W, C) -> a writable copy (H, W, 3).

    Of one band or two the first is shown as grey, of more than three the first three as red, green and blue.
    """
    array = crop.detach().cpu().numpy() if isinstance(crop, Tensor) else crop
    if (  # channels first: a side of a picture is longer than there are bands
        array.ndim == 3
        and array.shape[2] != 3
        and (array.shape[0] == 3 or array.shape[0] <= MOST_BANDS < array.shape[2])
    ):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] != 3:
        array = array[..., :3] if array.shape[2] > 3 else array[..., :1].repeat(3, axis=2)
    return array.copy(order="C")


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Replace every pixel by a square of `factor` x `factor` pixels."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def stretch(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize smoothly, any number of bands: by area where the picture shrinks, else bicubic."""
    shrinks = width * height < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return resized.reshape(height, width, *image.shape[2:])  # OpenCV drops the axis of a single band


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """`stretch` to a longer side of `side` pixels, with the picture's aspect."""
    scale = side / max(image.shape[:2])
    return stretch(image, max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))


def colorize(values: np.ndarray, low: float, high: float, colors: int = cv2.COLORMAP_INFERNO) -> np.ndarray:
    """Values (H, W), clipped to [low, high] -> colours (H, W, 3) of an OpenCV colour map."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return cv2.applyColorMap(np.rint(share * 255).astype(np.uint8), colors)[..., ::-1].copy()


def blend(image: np.ndarray, other: np.ndarray | tuple, share: float | np.ndarray) -> np.ndarray:
    """Blend `other` over `image` with opacity `share`, which may vary by pixel (H, W, 1)."""
    mixed = image * (1.0 - share) + np.asarray(other, dtype=np.float64) * share
    return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)


def draw_box(image: np.ndarray, box, color, thickness: int = 2, dashed: bool = False) -> None:
    """Outline the box (x0, y0, x1, y1), in pixels with corners in any order, in place."""
    height, width = image.shape[:2]
    corners = np.clip(np.rint(np.reshape(box, (2, 2))), 0, (width - 1, height - 1)).astype(int).tolist()
    if not dashed:
        cv2.rectangle(image, *corners, color, thickness)
        return
    drawn = cv2.rectangle(image.copy(), *corners, color, thickness)
    shown = np.add.outer(np.arange(height), np.arange(width)) // (4 * thickness) % 2 == 0
    image[shown] = drawn[shown]


def draw_dot(image: np.ndarray, point: tuple[float, float], color=(255, 255, 255), radius: int = 6) -> None:
    """Draw a dot with an outline at (x, y) in pixels, in place; visible on light and dark backgrounds."""
    at = (round(point[0]), round(point[1]))
    cv2.circle(image, at, radius + 2, INK, -1, cv2.LINE_AA)
    cv2.circle(image, at, radius, color, -1, cv2.LINE_AA)


def draw_tag(image: np.ndarray, text: str, at: tuple[float, float], color, size: int = 14) -> None:
    """Draw white text on a rectangle of `color`, its upper left corner at `at`, shifted to stay inside the image; in
    place.
    """
    text = plain(text)
    left, top, right, bottom = font_for(text, size).getbbox(text)
    width, height = right - left + 8, bottom - top + 6
    x = int(np.clip(at[0], 0, max(0, image.shape[1] - width)))
    y = int(np.clip(at[1], 0, max(0, image.shape[0] - height)))
    image[y : y + height, x : x + width] = color
    write(image, text, (x + 4 - left, y + 3 - top), size, (255, 255, 255))


def write(image: np.ndarray, text: str, at: tuple[float, float], size: int = 16, color=INK) -> float:
    """Write text with its upper left corner at `at`, in place. Returns the x coordinate of its end."""
    text, picture, font = plain(text), Image.fromarray(image), font_for(text, size)
    ImageDraw.Draw(picture).text(at, text, font=font, fill=tuple(color))
    image[:] = np.asarray(picture)
    return at[0] + font.getlength(text)


def plain(text: str) -> str:
    """Make `text` safe for Pillow, which fails on line breaks, lone surrogates and very long text."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 3] + "..."


def row(tiles: list[np.ndarray], gap: int = 8, background=PAPER) -> np.ndarray:
    """Arrange tiles side by side, top-aligned."""
    height = max(tile.shape[0] for tile in tiles)
    width = sum(tile.shape[1] for tile in tiles) + gap * (len(tiles) - 1)
    canvas = np.full((height, width, 3), background, dtype=np.uint8)
    x = 0
    for tile in tiles:
        canvas[: tile.shape[0], x : x + tile.shape[1]] = tile
        x += tile.shape[1] + gap
    return canvas


def column(tiles: list[np.ndarray], gap: int = 8, background=PAPER) -> np.ndarray:
    """Stack tiles vertically, left-aligned."""
    turned = [tile.transpose(1, 0, 2) for tile in tiles]
    return np.ascontiguousarray(row(turned, gap, background).transpose(1, 0, 2))


def text_line(text: str, width: int, top: int, size: int, height: int = LINE) -> np.ndarray:
    """A strip of background (height, width, 3) with one line of text."""
    strip = np.full((height, width, 3), PAPER, np.uint8)
    write(strip, text, (0, top), size)
    return strip


def framed(rows: list[np.ndarray]) -> np.ndarray:
    """Stack rows vertically and add a margin around them."""
    return np.pad(column(rows), ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=PAPER[0])
