"""A video in one picture: some frames with the true masks, and below them the same frames with the predicted masks."""

from pathlib import Path

import cv2
import numpy as np

from cropfield.canvas import PAPER, blend, color_of, column, fit, row, write
from lab.commands import write_picture
from lab.video.davis import Video, read_frame, read_mask


def write_strip(video: Video, results: Path, path: Path, tiles: int = 5, side: int = 320) -> None:
    """Draw `tiles` evenly spaced frames of a video, including the first and the last, as PNG.

    Args:
        results: folder of the predicted masks, with a sub-folder for each video.
        side: longer side of a tile in pixels.
    """
    chosen = np.unique(np.linspace(0, len(video.frames) - 1, tiles).round().astype(int))
    rows = []
    for title, folder in (("truth", video.masks[0].parent), ("found", results / video.name)):
        pictures = [_overlay(video, index, folder, side) for index in chosen]
        rows.append(column([_title(f"{video.name}: {title}", side), row(pictures)], gap=2))
    write_picture(path, column(rows))


def _overlay(video: Video, index: int, folder: Path, side: int) -> np.ndarray:
    """A frame with its objects tinted and outlined, and its number below."""
    frame = fit(read_frame(video.frames[index]), side)
    mask, _ = read_mask(folder / video.masks[index].name)
    mask = cv2.resize(mask, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    for number in range(1, mask.max() + 1):
        inside = (mask == number).astype(np.uint8)
        frame = blend(frame, color_of(number - 1), 0.5 * inside[..., None])
        outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(frame, outlines, -1, color_of(number - 1), 2)
    return column([frame, _title(f"frame {index}", side)], gap=2)


def _title(text: str, width: int) -> np.ndarray:
    strip = np.full((22, width, 3), PAPER, np.uint8)
    write(strip, text, (2, 1))
    return strip
