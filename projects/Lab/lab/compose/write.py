"""Writing a composed dataset into a folder, whole or not at all."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lab.compose import coco
from lab.compose.dataset import Plan, draw_scenes, load_kits
from lab.compose.scene import Kit
from pretrain.errors import UserError

RECORD = "compose.json"  # what was composed; marks a folder as ours
_OURS = [RECORD, "annotations", "train", "val", "unlabeled"]
_DRAFT = ".draft"


def compose_dataset(plan: Plan, output: Path, overwrite: bool, say: Callable[[str], None] = print) -> None:
    """Write `annotations/`, `train/`, `val/`, `unlabeled/` and `compose.json` into `output`.

    All is drawn in a hidden folder inside `output` and moved into place at the end, so an interrupted call
    leaves nothing that looks whole. The same plan a second time finds its work done.

    UserError: bad sources, or an output that cannot be written or holds other things.
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
        raise UserError(f"{output} holds another dataset; give --overwrite to replace it, or another --output.")
    draft = output / _DRAFT
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
        present = {p.name for p in output.iterdir()} - {_DRAFT} if output.exists() else set()
    except OSError as error:
        raise UserError(f"cannot read {output}: {error.strerror}; give another --output.") from error
    if not present or RECORD in present:
        return
    if not overwrite:
        raise UserError(f"{output} is not empty; give --overwrite to write into it, or another --output.")
    if present & set(_OURS):
        held = ", ".join(sorted(present & set(_OURS)))
        raise UserError(f"{output} holds {held}, not of this tool's making: not overwritten; give another --output.")


def _record(plan: Plan, names: list[str], kits: dict[str, Kit]) -> dict:
    """What decides the dataset: options, and the names of each split's sources. No paths."""
    options = asdict(plan) | {"cutouts": bool(plan.cutouts), "photographs": bool(plan.photographs)}
    sources = {
        split: {
            "objects": {n: [d.name for d in group] for n, group in zip(names, kits[split].categories, strict=True)},
            "photographs": [photograph.name for photograph in kits[split].photographs],
        }
        for split in ("train", "val")
    }
    return json.loads(json.dumps({"format": 2, "options": options, "sources": sources}))


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
    for name in reversed(_OURS):
        if (output / name).exists():
            shutil.rmtree(output / name)
        if (draft / name).exists():
            (draft / name).rename(output / name)
    draft.rmdir()
