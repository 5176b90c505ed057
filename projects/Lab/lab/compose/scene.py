"""Compose a scene: a photograph with objects placed on it, and the visible pixels of each object."""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from lab.compose.photographs import Photograph, random_crop
from pretrain.errors import UserError

TRIES = 20  # positions tried for an object before it is left out
MIN_PIXELS = 16  # smaller objects are left out


class Drawable(Protocol):
    """An object for scenes: a cut-out or a pictograph."""

    name: str

    def render(self, photographs: list[Photograph], rng: np.random.Generator) -> np.ndarray:
        """RGBA of one instance, uint8 (H, W, 4)."""


@dataclass(frozen=True)
class Kit:
    """Material for the scenes of one split: drawables by category, and photographs."""

    categories: list[list[Drawable]]
    photographs: list[Photograph]


@dataclass(frozen=True)
class Layout:
    """Placement of objects."""

    size: int  # image side in pixels
    objects: tuple[int, int]  # fewest and most in an image
    scale: tuple[float, float]  # least and greatest longer side of an object, relative to the image
    rotation: float  # greatest, in degrees
    occlusion: float  # greatest hidden fraction of an object


@dataclass(frozen=True)
class Scene:
    """An image and its objects."""

    image: np.ndarray  # uint8 (S, S, 3) RGB
    categories: list[int]  # index of each object's category
    masks: np.ndarray  # bool (objects, S, S), the visible pixels of each object, disjoint


def compose_scene(kit: Kit, layout: Layout, rng: np.random.Generator) -> Scene:
    """Compose a scene. Later objects hide earlier ones, none by more than `layout.occlusion` of its pixels.

    An object for which there is no room is left out. UserError if no object fits in any of `TRIES` scenes.
    """
    for _ in range(TRIES):
        scene = _try_scene(kit, layout, rng)
        if scene.categories:
            return scene
    raise UserError(
        f"no object fits: at {layout.size} pixels and a scale of {layout.scale[0]:g} to {layout.scale[1]:g} "
        "they are too large or too thin; change --scale or --size."
    )


def _try_scene(kit: Kit, layout: Layout, rng: np.random.Generator) -> Scene:
    image = random_crop(kit.photographs, layout.size, rng).astype(np.float32)
    owner = np.full((layout.size, layout.size), -1)  # index of the object seen at each pixel
    whole, categories = [], []  # pixels of each object including hidden ones; its category
    for _ in range(rng.integers(layout.objects[0], layout.objects[1] + 1)):
        category = int(rng.integers(len(kit.categories)))
        drawables = kit.categories[category]
        rgba = drawables[rng.integers(len(drawables))].render(kit.photographs, rng)
        patch = _turn(rgba, layout, rng)
        solid = patch[..., 3] >= 0.5
        room = _find_room(solid, owner, whole, layout, rng)
        if room is None:
            continue
        here, there = room
        part = patch[there]
        image[here] = image[here] * (1 - part[..., 3:]) + 255 * part[..., :3]
        owner[here][solid[there]] = len(whole)
        whole.append(int(solid.sum()))
        categories.append(category)
    masks = owner[None] == np.arange(len(whole))[:, None, None]
    return Scene(np.clip(image + 0.5, 0, 255).astype(np.uint8), categories, masks)


def _turn(rgba: np.ndarray, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """Scale, flip and rotate -> float32 (h, w, 4) in [0, 1], with colours premultiplied by alpha for smooth edges."""
    length = layout.size * np.exp(rng.uniform(*np.log(layout.scale)))
    angle = rng.uniform(-layout.rotation, layout.rotation)
    if rng.random() < 0.5:
        rgba = rgba[:, ::-1]
    pixels = rgba.astype(np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    # rotate at twice the final size, then downscale by area: antialiased at any scale
    ratio = 2 * length / max(rgba.shape[:2])
    width, height = (max(round(n * ratio), 2) for n in (rgba.shape[1], rgba.shape[0]))
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    half_w, half_h = (int(np.ceil(n / 2)) + 1 for n in (width * cos + height * sin, width * sin + height * cos))
    matrix[:, 2] += (half_w - 0.5 - (width - 1) / 2, half_h - 0.5 - (height - 1) / 2)
    turned = cv2.warpAffine(pixels, matrix, (2 * half_w, 2 * half_h))
    return cv2.resize(turned, (half_w, half_h), interpolation=cv2.INTER_AREA)


def _find_room(solid: np.ndarray, owner: np.ndarray, whole: list[int], layout: Layout, rng: np.random.Generator):
    """Slices of the image and of the object where `solid` (h, w) fits, or None."""
    (height, width), total, size = solid.shape, int(solid.sum()), layout.size
    if total < MIN_PIXELS:
        return None
    seen = np.bincount(owner.ravel() + 1, minlength=len(whole) + 1)[1:]
    needed = (1 - layout.occlusion) * np.array([*whole, total])
    for _ in range(TRIES):
        top, left = (_draw_offset(length, layout, rng) for length in (height, width))
        y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + height, size), min(left + width, size)
        here, there = np.s_[y0:y1, x0:x1], np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        covered = np.bincount(owner[here][solid[there]] + 1, minlength=len(whole) + 1)
        if (np.append(seen - covered[1:], covered.sum()) >= needed).all():
            return here, there
    return None


def _draw_offset(length: int, layout: Layout, rng: np.random.Generator) -> int:
    """Random start of an extent of `length`: inside the image, or beyond its edge as far as `occlusion` allows."""
    beyond = layout.occlusion * length / 2
    low, high = sorted((-beyond, layout.size - length + beyond))
    return int(np.floor(rng.uniform(low, high) + 0.5))
