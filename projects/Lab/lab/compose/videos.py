"""Compose small videos with exact masks in DAVIS-2017's layout: pictographs moving over a panning photograph."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lab.commands import new_folder
from lab.compose.photographs import Photograph, shipped_photographs
from lab.compose.pictographs import Pictograph, load_pictographs

PERIOD = 40  # frames of an object's cycle, so that its speed does not depend on the video's length
MARGIN = 0.15  # fraction of the frame that the photograph pans over
LENGTH = 0.45  # an object's longer side, relative to the frame's shorter


@dataclass(frozen=True)
class VideoPlan:
    """`size`: (H, W) of a frame, DAVIS's 480 x 854 by default. `objects`: number in each video, at most six."""

    videos: int = 3
    frames: int = 20
    objects: int = 2
    size: tuple[int, int] = (480, 854)
    seed: int = 0


def compose_videos(plan: VideoPlan, output: Path, palette: list[int]) -> None:
    """Write JPEGImages/480p, Annotations/480p and ImageSets/2017/val.txt into `output`, atomically.

    Args:
        palette: of the annotations, 768 values.

    Raises:
        UserError: `output` exists and is not empty, or cannot be written; no photographs or font.
    """
    with new_folder(output) as draft:
        photographs = shipped_photographs(2 * max(plan.size))
        drawables = [p for group in load_pictographs(6, round(LENGTH * min(plan.size))).values() for p in group[:1]]
        names = [f"composed-{number:02d}" for number in range(plan.videos)]
        for number, name in enumerate(names):
            rng = np.random.default_rng([plan.seed, number])
            _write_video(draft, name, draw_frames(plan, drawables, photographs, rng), palette)
        (draft / "ImageSets" / "2017").mkdir(parents=True)
        (draft / "ImageSets" / "2017" / "val.txt").write_text("".join(f"{name}\n" for name in names))


def _write_video(root: Path, name: str, frames: Iterator[tuple[np.ndarray, np.ndarray]], palette: list[int]) -> None:
    pictures, annotations = (root / part / "480p" / name for part in ("JPEGImages", "Annotations"))
    for folder in (pictures, annotations):
        folder.mkdir(parents=True)
    for index, (frame, mask) in enumerate(frames):
        Image.fromarray(frame).save(pictures / f"{index:05d}.jpg", quality=95)
        numbers = Image.fromarray(mask)
        numbers.putpalette(palette)
        numbers.save(annotations / f"{index:05d}.png")


def draw_frames(
    plan: VideoPlan, drawables: list[Pictograph], photographs: list[Photograph], rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames uint8 (H, W, 3), and the object number at each pixel, uint8 (H, W); 0 is none.

    Each object swings along its own path, rotates and changes its size; later objects hide earlier ones. In the first
    frame each has its own part of the width.
    """
    height, width = plan.size
    background = _background(photographs[rng.integers(len(photographs))].pixels, plan.size)
    chosen = rng.permutation(len(drawables))[: plan.objects]
    sprites = [drawables[i].render(photographs, rng).astype(np.float32) for i in chosen]
    paths = [_Path.draw(slot, len(chosen), plan.size, rng) for slot in range(len(chosen))]
    pan = rng.uniform(0, 2 * np.pi, 2)
    for index in range(plan.frames):
        phase = 2 * np.pi * index / PERIOD
        top, left = (0.5 * (1 + np.sin(0.5 * phase + pan)) * (np.array(background.shape[:2]) - plan.size)).astype(int)
        frame = background[top : top + height, left : left + width].astype(np.float32)
        mask = np.zeros(plan.size, np.uint8)
        for number, (sprite, path) in enumerate(zip(sprites, paths, strict=True), 1):
            placed = cv2.warpAffine(sprite, path.matrix_at(phase, sprite.shape[:2]), (width, height))
            alpha = placed[..., 3:] / 255
            frame += alpha * (placed[..., :3] - frame)
            mask[alpha[..., 0] > 0.5] = number
        light = 1 + 0.08 * np.sin(phase + pan[0])
        yield np.clip(frame * light, 0, 255).astype(np.uint8), mask


def _background(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The centre of a photograph, slightly larger than a frame of `size`."""
    height, width = (round(side * (1 + MARGIN)) for side in size)
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    resized = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=way)
    top, left = ((have - want) // 2 for have, want in zip(resized.shape[:2], (height, width), strict=True))
    return resized[max(top, 0) :, max(left, 0) :][:height, :width]


@dataclass(frozen=True)
class _Path:
    """Motion of an object: it swings around `centre` (x, y) by `reach`, starts at `phases`, and rotates by `turn`."""

    centre: np.ndarray
    reach: np.ndarray
    phases: np.ndarray
    turn: float

    @classmethod
    def draw(cls, slot: int, slots: int, size: tuple[int, int], rng: np.random.Generator) -> "_Path":
        height, width = size
        centre = np.array([(slot + 0.5) / slots * width, rng.uniform(0.4, 0.6) * height])
        reach = np.array([rng.uniform(0.08, 0.18) * width, rng.uniform(0.05, 0.2) * height])
        return cls(centre, reach, rng.uniform(0, 2 * np.pi, 2), rng.uniform(-25, 25))

    def matrix_at(self, phase: float, shape: tuple[int, int]) -> np.ndarray:
        """The affine matrix (2, 3) that places an object of `shape` (h, w) in the frame."""
        x, y = self.centre + self.reach * (np.sin(phase * np.array([1, 1.5]) + self.phases) - np.sin(self.phases))
        h, w = shape
        matrix = cv2.getRotationMatrix2D((w / 2, h / 2), self.turn * np.sin(phase), 1 + 0.15 * np.sin(0.7 * phase))
        matrix[:, 2] += x - w / 2, y - h / 2
        return matrix
