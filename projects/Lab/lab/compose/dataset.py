"""What a dataset is composed of: the sources of each split, and scenes drawn from seeds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.compose.cutouts import load_cutouts
from lab.compose.photographs import load_photographs, shipped_photographs
from lab.compose.pictographs import load_pictographs
from lab.compose.scene import Drawable, Kit, Layout, Scene, compose_scene
from lab.compose.split import split_drawables, split_photographs
from pretrain.errors import UserError

# Each purpose has its own stream of random numbers, so no scene of one split is ever a scene of another.
STREAMS = {"train": 0, "val": 1, "unlabeled": 2, "sources": 3}


@dataclass(frozen=True)
class Plan:
    """What to compose.

    `train`, `val`, `unlabeled`: images in each split. `classes`: how many of the categories, None for all.
    `unseen`: validation has objects and photographs of its own. `typical`: share of the pictographs made of their
    category's own material. `cutouts`, `photographs`: folders, None for what is installed.
    """

    train: int
    val: int
    unlabeled: int
    layout: Layout
    classes: int | None
    unseen: bool
    typical: float
    seed: int
    cutouts: Path | None = None
    photographs: Path | None = None


def load_kits(plan: Plan) -> tuple[list[str], dict[str, Kit], list[str]]:
    """Category names, the kit of each split, a line about each file left out. UserError on bad sources."""
    rng = np.random.default_rng((plan.seed, STREAMS["sources"]))
    max_side, skipped = max(512, 3 * plan.layout.size), []
    if plan.photographs:
        photographs, skipped = load_photographs(plan.photographs, max_side, rng)
    else:
        photographs = shipped_photographs(max_side)
    drawables, more = _load_drawables(plan)
    pairs = [split_drawables(name, group, plan.unseen, rng) for name, group in drawables.items()]
    train_photographs, val_photographs = split_photographs(photographs, plan.unseen, rng)
    train = Kit([a for a, _ in pairs], train_photographs)
    val = Kit([b for _, b in pairs], val_photographs)
    return list(drawables), {"train": train, "val": val, "unlabeled": train}, skipped + more


def _load_drawables(plan: Plan) -> tuple[dict[str, list[Drawable]], list[str]]:
    """What can be placed, by category, at twice the largest object's size; a line about each file skipped."""
    side = min(max(round(2 * plan.layout.scale[1] * plan.layout.size), 64), 1024)
    if plan.cutouts is None:
        return load_pictographs(plan.classes, side, plan.typical), []
    found, skipped = load_cutouts(plan.cutouts, side)
    if plan.classes and len(found) < plan.classes:
        raise UserError(f"--classes {plan.classes}: {plan.cutouts} has cut-outs of {len(found)} categories only.")
    return dict(list(found.items())[: plan.classes]), skipped


def draw_scenes(kit: Kit, layout: Layout, split: str, seed: int, count: int) -> Iterator[Scene]:
    """Scenes 0 to `count` - 1 of a split; each depends on (seed, split, its index) alone."""
    for index in range(count):
        yield compose_scene(kit, layout, np.random.default_rng((seed, STREAMS[split], index)))
