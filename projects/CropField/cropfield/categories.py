"""Which category each output of a detector stands for: in its weights, in a COCO file, in a dataset.

Categories are a list of {"id": ..., "name": ...} in the order of the outputs. They are matched by name.
"""

import json
from pathlib import Path

from detectron2.data import MetadataCatalog
from torch import Tensor

from pretrain.errors import UserError

KEY = "categories"  # in a checkpoint's metadata
SHOWN = 20  # most names in a message
_BOXES = "roi_heads.box_predictor"


def of_dataset(name: str) -> list[dict] | None:
    """Categories of a dataset registered with Detectron2, or None if its metadata has no classes.

    The ids are the dataset's own once it has been loaded; before that they are 0, 1, ...
    """
    known = MetadataCatalog.get(name)
    names = known.get("thing_classes") or known.get("stuff_classes") or ()
    ids = {number: own for own, number in (known.get("thing_dataset_id_to_contiguous_id") or {}).items()}
    return [{"id": ids.get(number, number), "name": name} for number, name in enumerate(names)] or None


def of_file(content: dict) -> list[dict]:
    """Categories of a COCO file's content, sorted by id as in Detectron2."""
    return [{"id": c["id"], "name": c["name"]} for c in sorted(content["categories"], key=lambda c: c["id"])]


def in_metadata(metadata, path: str | Path) -> list[dict] | None:
    """Categories in the metadata of the checkpoint `path`, or None if it has none. Raises UserError if they are
    damaged.
    """
    found = metadata.get(KEY) if isinstance(metadata, dict) else None
    try:
        found = json.loads(found) if isinstance(found, str) else found  # safetensors stores text only
        return found and [{"id": entry["id"], "name": str(entry["name"])} for entry in found]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: its list of classes is damaged; get it again from whoever made it") from None


def names_of(categories: list[dict]) -> list[str]:
    return [category["name"] for category in categories]


def check_same_order(path: str | Path, theirs: list[dict] | None, ours: list[dict] | None) -> None:
    """Raise UserError if the weights in `path` have other classes, or the same ones in another order."""
    if theirs and ours and names_of(theirs) != names_of(ours):
        raise other_classes(path, theirs, ours)


def places(path: str | Path, theirs: list[dict], ours: list[dict], partial: bool = False) -> dict[int, int]:
    """Map the index of each of our classes to its index in the weights in `path`.

    partial: leave out classes that only one side has.

    Raises:
        UserError: the names differ, or several classes have the same name.
    """
    theirs_by_name = {name: number for number, name in enumerate(names_of(theirs))}
    found = {n: theirs_by_name[name] for n, name in enumerate(names_of(ours)) if name in theirs_by_name}
    whole = len(found) == len(ours) == len(theirs) == len(theirs_by_name) == len(set(names_of(ours)))
    if names_of(theirs) == names_of(ours):
        return {number: number for number in range(len(ours))}
    if not whole and not partial:
        raise other_classes(path, theirs, ours)
    return found


def other_classes(path: str | Path, theirs: list[dict], ours: list[dict]) -> UserError:
    """The error that names both lists of classes."""
    lists = [", ".join(names_of(c)[:SHOWN]) + ", ..." * (len(c) > SHOWN) for c in (theirs, ours)]
    return UserError(
        f"{path} is a detector of other classes than the dataset's: it knows {len(theirs)} ({lists[0]}), the dataset "
        f"has {len(ours)} ({lists[1]}), in this order; use the dataset that it was trained on or other weights, or "
        "train from all but its classes with train.init_partial=True"
    )


def reorder(
    state: dict[str, Tensor], wanted: dict[str, Tensor], order: dict[int, int], theirs: int, ours: int
) -> dict[str, Tensor] | None:
    """Reorder a detector's weights so that each class's outputs are where this detector expects them.

    Args:
        state: weights for `theirs` classes.
        wanted: this detector's weights, for `ours` classes; classes missing from `order` keep these values.
        order: from `places`.

    Returns:
        The reordered weights, or None if the layout of this kind of detector is not supported.
    """
    if not any(name.startswith(_BOXES) for name in state):
        return None
    moved = dict(state)
    for name, value in state.items():
        rows = _rows_a_class(name, len(value), theirs) if value.dim() and name in wanted else 0
        background = len(value) - rows * theirs if rows else 0
        if not rows or len(wanted[name]) != rows * ours + background:
            continue
        moved[name] = new = wanted[name].clone()
        for our, their in order.items():
            new[our * rows : (our + 1) * rows] = value[their * rows : (their + 1) * rows]
        new[rows * ours :] = value[rows * theirs :]
    return moved


def _rows_a_class(name: str, length: int, classes: int) -> int:
    """Number of rows that each class has in an R-CNN's tensor; 0 if the tensor does not depend on the classes."""
    if name.startswith(_BOXES) and ".cls_score." in name and length == classes + 1:
        return 1
    if name.startswith(_BOXES) and ".bbox_pred." in name and length == 4 * classes:
        return 4 * (classes > 1)
    if name.startswith("roi_heads.mask_head.predictor.") and length == classes:
        return int(classes > 1)
    return 0
