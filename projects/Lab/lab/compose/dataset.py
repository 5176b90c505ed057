"""Sources of each split of a composed dataset, and scenes drawn from seeds."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from lab.compose.photographs import Photograph, load_cutouts, load_photographs, shipped_photographs
from lab.compose.pictographs import load_pictographs
from lab.compose.scene import Drawable, Kit, Layout, Scene, compose_scene
from pretrain.errors import UserError

TRAIN_SHARE = 0.7  # fraction of the items, or of a photograph's longer side, used in training
Item = TypeVar("Item")

# Each purpose has its own random stream, so that no scene is in two splits.
STREAMS = {"train": 0, "val": 1, "unlabeled": 2, "sources": 3}


@dataclass(frozen=True)
class Plan:
    """Options of a composed dataset."""

    train: int  # images in each split
    val: int
    unlabeled: int
    layout: Layout
    classes: int | None  # number of categories; None: all
    unseen: bool  # validation uses other objects and photographs
    typical: float  # fraction of pictographs made of their category's own material
    seed: int
    cutouts: Path | None = None  # folders; None: from installed packages
    photographs: Path | None = None


def load_kits(plan: Plan) -> tuple[list[str], dict[str, Kit], list[str]]:
    """Category names, the kit of each split, and a line about each skipped file. UserError on bad sources."""
    rng = np.random.default_rng((plan.seed, STREAMS["sources"]))
    max_side, skipped = max(512, 3 * plan.layout.size), []
    if plan.photographs:
        photographs, skipped = load_photographs(plan.photographs, max_side, rng)
    else:
        photographs = shipped_photographs(max_side)
    drawables, more = _load_drawables(plan)
    halves = [(group, group) for group in drawables.values()]
    if plan.unseen:
        # Seeded by name, so that a category holds out the same cut-outs whatever the other categories are.
        streams = {name: np.random.default_rng((plan.seed, zlib.crc32(name.encode()))) for name in drawables}
        halves = [
            hold_out(group, f"category {name!r} has one cut-out only", streams[name])
            for name, group in drawables.items()
        ]
        train_photographs, val_photographs = hold_out(photographs, "there is one photograph only", rng)
    else:
        train_photographs, val_photographs = zip(*map(cut_photograph, photographs), strict=True)
    train = Kit([a for a, _ in halves], list(train_photographs))
    val = Kit([b for _, b in halves], list(val_photographs))
    return list(drawables), {"train": train, "val": val, "unlabeled": train}, skipped + more


def hold_out(items: list[Item], complaint: str, rng: np.random.Generator) -> tuple[list[Item], list[Item]]:
    """Split `items` randomly: `TRAIN_SHARE` of them, and the rest; at least one in each. UserError on fewer than
    two.
    """
    if len(items) < 2:
        raise UserError(f"--unseen: {complaint}; at least two are needed, one of them for validation.")
    order = rng.permutation(len(items))
    count = min(max(round(TRAIN_SHARE * len(items)), 1), len(items) - 1)
    return [items[i] for i in sorted(order[:count])], [items[i] for i in sorted(order[count:])]


def cut_photograph(photograph: Photograph) -> tuple[Photograph, Photograph]:
    """Cut in two across the longer side at `TRAIN_SHARE`, without overlap."""
    pixels = photograph.pixels
    axis = int(pixels.shape[1] >= pixels.shape[0])
    at = min(max(round(TRAIN_SHARE * pixels.shape[axis]), 1), pixels.shape[axis] - 1)
    first, second = np.split(pixels, [at], axis=axis)
    return Photograph(photograph.name, first), Photograph(photograph.name, second)


def _load_drawables(plan: Plan) -> tuple[dict[str, list[Drawable]], list[str]]:
    """Drawables by category, at twice the largest object's size, and a line about each skipped file."""
    side = min(max(round(2 * plan.layout.scale[1] * plan.layout.size), 64), 1024)
    if plan.cutouts is None:
        return load_pictographs(plan.classes, side, plan.typical), []
    found, skipped = load_cutouts(plan.cutouts, side)
    if plan.classes and len(found) < plan.classes:
        raise UserError(f"--classes {plan.classes}: {plan.cutouts} has cut-outs of {len(found)} categories only.")
    return dict(list(found.items())[: plan.classes]), skipped


def draw_scenes(kit: Kit, layout: Layout, split: str, seed: int, count: int) -> Iterator[Scene]:
    """Scenes 0 to `count` - 1 of a split; each depends only on (seed, split, index)."""
    for index in range(count):
        yield compose_scene(kit, layout, np.random.default_rng((seed, STREAMS[split], index)))
