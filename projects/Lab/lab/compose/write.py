"""Write a composed dataset in COCO's format, with JPEG files and run-length masks, atomically."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from lab.compose.dataset import Plan, draw_scenes, load_kits
from lab.compose.scene import Kit, Scene
from pretrain.errors import UserError
from pretrain.outputs import LOCK, open_output
from pretrain.progress import progress

RECORD = "compose.json"  # records the options, and marks the folder as written by this tool
_OURS = [RECORD, "annotations", "train", "val", "unlabeled"]
_DRAFT = ".draft"
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def compose_dataset(plan: Plan, output: Path, overwrite: bool, say: Callable[[str], None] = print) -> None:
    """Write `annotations/`, `train/`, `val/`, `unlabeled/` and `compose.json` into `output`.

    Everything is written to a hidden folder inside `output` and moved into place at the end, so an interrupted call
    leaves no incomplete dataset. With the same plan, an existing dataset is kept.

    UserError: bad sources, or an output that cannot be written or contains other files.
    """
    refuse_foreign(output)
    names, kits, skipped = load_kits(plan)
    for line in skipped:
        say(f"left out: {line}")
    record = _record(plan, names, kits)
    if not overwrite and _read_record(output) == record:
        say(f"{output} already holds this dataset; --overwrite composes it again.")
        return
    if not overwrite and (output / RECORD).exists():
        raise UserError(f"{output} holds another dataset; give --overwrite to replace it, or another --output.")
    draft = open_output(output) / _DRAFT
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _write_splits(plan, names, kits, draft, say)
        (draft / RECORD).write_text(json.dumps(record) + "\n")
        _move_into_place(draft, output)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror or error}; give another --output.") from error


def refuse_foreign(output: Path) -> None:
    """Raise UserError if writing to `output` would mix with, or delete, files that this tool did not write."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output: {output} is a file; give a folder.")
    try:
        present = {p.name for p in output.iterdir()} - {_DRAFT, LOCK} if output.exists() else set()
    except OSError as error:
        raise UserError(f"cannot read {output}: {error.strerror}; give another --output.") from error
    if present and RECORD not in present:
        raise UserError(f"{output} is not empty and holds no dataset made by this tool; give another --output.")


def _record(plan: Plan, names: list[str], kits: dict[str, Kit]) -> dict:
    """Everything that determines the dataset: options, and names of each split's sources, without paths."""
    options = asdict(plan) | {"cutouts": bool(plan.cutouts), "photographs": bool(plan.photographs)}
    sources = {}
    for split in ("train", "val"):
        groups = zip(names, kits[split].categories, strict=True)
        objects = {name: [drawable.name for drawable in group] for name, group in groups}
        sources[split] = {"objects": objects, "photographs": [p.name for p in kits[split].photographs]}
    return json.loads(json.dumps({"format": 2, "options": options, "sources": sources}))


def _read_record(output: Path) -> dict | None:
    try:
        return json.loads((output / RECORD).read_text())
    except (OSError, ValueError):
        return None


def _write_splits(plan: Plan, names: list[str], kits: dict[str, Kit], folder: Path, say: Callable[[str], None]) -> None:
    (folder / "annotations").mkdir()
    for split in ("train", "val", "unlabeled"):
        count, objects = getattr(plan, split), ""
        if not count and split == "unlabeled":
            continue
        scenes = draw_scenes(kits[split], plan.layout, split, plan.seed, count)
        content = write_scenes(scenes, names, f"composed scenes, {split}, seed {plan.seed}", folder / split, count)
        if split != "unlabeled":
            (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content) + "\n")
            objects = f", {len(content['annotations'])} objects of {len(names)} categories"
        say(f"{split}: {count} images of {plan.layout.size} x {plan.layout.size}{objects}")


def write_scenes(
    scenes: Iterable[Scene], categories: list[str], description: str, folder: Path, count: int | None = None
) -> dict:
    """Write each scene's image into `folder` as it is drawn; returns COCO annotations, with all ids from 1."""
    folder.mkdir()
    images, annotations = [], []
    for index, scene in enumerate(progress(scenes, f"scenes of {folder.name}", count)):
        name, (height, width) = f"{index:06d}.jpg", scene.image.shape[:2]
        (folder / name).write_bytes(cv2.imencode(".jpg", scene.image[..., ::-1], _JPEG)[1])
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for category, mask in zip(scene.categories, scene.masks, strict=True):
            about = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category + 1}
            annotations.append(about | mask_fields(mask))
    entries = [{"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(categories, 1)]
    content = {"info": {"description": description}, "licenses": [], "images": images}
    return content | {"annotations": annotations, "categories": entries}


def mask_fields(mask: np.ndarray) -> dict:
    """`segmentation` (run lengths: exact, holes too), `bbox` (x, y, w, h) in pixels, `area`, `iscrowd`."""
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    box, area = [int(side) for side in coco_mask.toBbox(runs)], int(coco_mask.area(runs))
    runs |= {"size": [int(n) for n in runs["size"]], "counts": runs["counts"].decode("ascii")}
    return {"segmentation": runs, "bbox": box, "area": area, "iscrowd": 0}


def _move_into_place(draft: Path, output: Path) -> None:
    """Replace what an earlier call wrote; the record is removed first and written last."""
    (output / RECORD).unlink(missing_ok=True)
    for name in reversed(_OURS):
        if (output / name).exists():
            shutil.rmtree(output / name)
        if (draft / name).exists():
            (draft / name).rename(output / name)
    draft.rmdir()
