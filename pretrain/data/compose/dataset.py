"""A whole dataset: sources shared out among the splits, scenes drawn from seeds, files written."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pretrain.data.compose import coco
from pretrain.data.compose.cutouts import load_cutouts
from pretrain.data.compose.photographs import TRAIN_SHARE, load_photographs, shipped_photographs, split_photographs
from pretrain.data.compose.pictographs import load_pictographs
from pretrain.data.compose.scene import Drawable, Kit, Layout, Scene, compose_scene
from pretrain.errors import UserError

# Each purpose has its own stream of random numbers, so no scene of one split is ever a scene of another.
STREAMS = {"train": 0, "val": 1, "unlabeled": 2, "sources": 3}
RECORD = "compose.json"  # what was composed; marks a folder as ours
_OURS = ["annotations", "train", "val", "unlabeled", RECORD]


@dataclass(frozen=True)
class Plan:
    """What to compose: images in each split, placement, sources, seed. `unseen`: validation has its own sources.

    `classes`: how many of the categories, None for all. `cutouts`, `photographs`: folders, None for what is installed.
    """

    train: int
    val: int
    unlabeled: int
    layout: Layout
    classes: int | None
    unseen: bool
    seed: int
    cutouts: Path | None = None
    photographs: Path | None = None


def load_kits(plan: Plan) -> tuple[list[str], dict[str, Kit], list[str]]:
    """Category names, the kit of each split, and a line about each file left out. UserError if the sources do not do."""
    rng = np.random.default_rng((plan.seed, STREAMS["sources"]))
    max_side, skipped = max(512, 3 * plan.layout.size), []
    if plan.photographs:
        photographs, skipped = load_photographs(plan.photographs, max_side, rng)
    else:
        photographs = shipped_photographs(max_side)
    side = min(max(round(2 * plan.layout.scale[1] * plan.layout.size), 64), 1024)  # twice the largest object's
    if plan.cutouts:
        found, more = load_cutouts(plan.cutouts, max_side=side)
        skipped += more
        if plan.classes and len(found) < plan.classes:
            raise UserError(f"--classes {plan.classes}: {plan.cutouts} has cut-outs of {len(found)} categories only.")
        drawables = dict(list(found.items())[: plan.classes])
    else:
        drawables = load_pictographs(plan.classes, side=side)
    pairs = [_share_out(name, group, plan.unseen, rng) for name, group in drawables.items()]
    train_photographs, val_photographs = split_photographs(photographs, plan.unseen, rng)
    train = Kit([a for a, _ in pairs], train_photographs)
    val = Kit([b for _, b in pairs], val_photographs)
    return list(drawables), {"train": train, "val": val, "unlabeled": train}, skipped


def _share_out(
    category: str, drawables: list[Drawable], unseen: bool, rng: np.random.Generator
) -> tuple[list[Drawable], list[Drawable]]:
    """Drawables of one category for training and for validation: the same, or with `unseen` none in both."""
    if not unseen:
        return drawables, drawables
    if len(drawables) < 2:
        raise UserError(f"--unseen: category {category!r} has one cut-out only; it needs another one for validation.")
    order = rng.permutation(len(drawables))
    count = min(max(round(TRAIN_SHARE * len(order)), 1), len(order) - 1)
    return [drawables[i] for i in order[:count]], [drawables[i] for i in order[count:]]


def draw_scenes(kit: Kit, layout: Layout, split: str, seed: int, count: int) -> Iterator[Scene]:
    """Scenes 0 to `count` - 1 of a split; each depends on (seed, split, its index) alone."""
    for index in range(count):
        yield compose_scene(kit, layout, np.random.default_rng((seed, STREAMS[split], index)))


def compose_dataset(plan: Plan, output: Path, overwrite: bool, say: Callable[[str], None] = print) -> None:
    """Write `annotations/`, `train/`, `val/`, `unlabeled/` and `compose.json` into `output`.

    All is drawn in a hidden folder inside `output` and moved into place at the end, so an interrupted call leaves nothing
    that looks whole. The same plan a second time finds its work done. UserError: sources or output that do not do.
    """
    refuse_foreign(output, overwrite)
    names, kits, skipped = load_kits(plan)
    for line in skipped:
        say(f"left out: {line}")
    record = _record(plan, names, kits)
    if not overwrite and _read_record(output) == record:
        say(f"{output} already holds this dataset; --overwrite composes it again.")
        return
    if not overwrite and (output / RECORD).exists():
        raise UserError(f"{output} holds a dataset of other options; give --overwrite to replace it or another --output.")
    draft = output / ".draft"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _write_splits(plan, names, kits, draft, say)
        coco.write_json(record, draft / RECORD)
        _move_into_place(draft, output)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror or error}; give another --output.") from error


def refuse_foreign(output: Path, overwrite: bool) -> None:
    """UserError where writing to `output` would mix with, or delete, what this tool did not write."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output: {output} is a file; give a folder.")
    try:
        present = {p.name for p in output.iterdir()} - {".draft"} if output.exists() else set()
    except OSError as error:
        raise UserError(f"cannot read {output}: {error.strerror}; give another --output.") from error
    if not present or RECORD in present:
        return
    if not overwrite:
        raise UserError(f"{output} is not empty; give --overwrite to write into it, or another --output.")
    if present & set(_OURS):
        held = ", ".join(sorted(present & set(_OURS)))
        raise UserError(f"{output} holds {held}, not written by this tool, so --overwrite spares it; give another --output.")


def _record(plan: Plan, names: list[str], kits: dict[str, Kit]) -> dict:
    """What decides the dataset: options, and the names of the sources that each split draws from. No paths."""
    options = asdict(plan) | {"cutouts": bool(plan.cutouts), "photographs": bool(plan.photographs)}
    sources = {
        split: {
            "objects": {n: [d.name for d in group] for n, group in zip(names, kits[split].categories, strict=True)},
            "photographs": [photograph.name for photograph in kits[split].photographs],
        }
        for split in ("train", "val")
    }
    return json.loads(json.dumps({"format": 1, "options": options, "sources": sources}))


def _read_record(output: Path) -> dict | None:
    try:
        return json.loads((output / RECORD).read_text())
    except (OSError, ValueError):
        return None


def _write_splits(plan: Plan, names: list[str], kits: dict[str, Kit], folder: Path, say: Callable[[str], None]) -> None:
    for split in ("train", "val", "unlabeled"):
        count = getattr(plan, split)
        if not count and split == "unlabeled":
            continue
        images = coco.write_images(draw_scenes(kits[split], plan.layout, split, plan.seed, count), folder / split)
        content = coco.annotation_file(images, names, f"composed scenes, {split}, seed {plan.seed}")
        objects = ""
        if split != "unlabeled":
            coco.write_json(content, folder / "annotations" / f"instances_{split}.json")
            objects = f", {len(content['annotations'])} objects of {len(names)} categories"
        say(f"{split}: {count} images of {plan.layout.size} x {plan.layout.size}{objects}")


def _move_into_place(draft: Path, output: Path) -> None:
    """Replace what an earlier call wrote; the record goes first and comes last."""
    (output / RECORD).unlink(missing_ok=True)
    for name in _OURS:
        shutil.rmtree(output / name, ignore_errors=True)
        if (draft / name).exists():
            (draft / name).rename(output / name)
    draft.rmdir()
