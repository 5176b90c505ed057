"""The classes of a detector: which category each of its outputs stands for, in its weights, in a file, in a dataset.

Categories are a list of {"id": ..., "name": ...} in the order of the outputs. What is matched is the names.
"""

import json
from pathlib import Path

from detectron2.data import MetadataCatalog
from torch import Tensor

from pretrain.errors import UserError

KEY = "categories"  # in a checkpoint's metadata
SHOWN = 20  # names in a message
_BOXES = "roi_heads.box_predictor"


def of_dataset(name: str) -> list[dict] | None:
    """Of a dataset that Detectron2 knows; None where it says nothing of its classes.

    The ids are the dataset's own once it has been loaded, and 0, 1, ... before.
    """
    known = MetadataCatalog.get(name)
    names = known.get("thing_classes") or known.get("stuff_classes") or ()
    ids = {number: own for own, number in (known.get("thing_dataset_id_to_contiguous_id") or {}).items()}
    return [{"id": ids.get(number, number), "name": name} for number, name in enumerate(names)] or None


def of_file(content: dict) -> list[dict]:
    """Of a COCO file's content: in the order of the ids, as Detectron2 takes them."""
    return [{"id": c["id"], "name": c["name"]} for c in sorted(content["categories"], key=lambda c: c["id"])]


def in_metadata(metadata, path: str | Path) -> list[dict] | None:
    """Of the metadata of the checkpoint `path`; None where it does not say. Raises UserError where it is damaged."""
    found = metadata.get(KEY) if isinstance(metadata, dict) else None
    try:
        found = json.loads(found) if isinstance(found, str) else found  # in safetensors all is text
        return found and [{"id": entry["id"], "name": str(entry["name"])} for entry in found]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: its list of classes is damaged; get it again from whoever made it") from None


def names_of(categories: list[dict]) -> list[str]:
    return [category["name"] for category in categories]


def check_same_order(path: str | Path, theirs: list[dict] | None, ours: list[dict] | None) -> None:
    """Raise UserError where the weights in `path` are of other classes, or of the same in another order."""
    if theirs and ours and names_of(theirs) != names_of(ours):
        raise other_classes(path, theirs, ours)


def places(path: str | Path, theirs: list[dict], ours: list[dict], partial: bool = False) -> dict[int, int]:
    """Where each of our classes is among those of the weights in `path`: {our number: their number}.

    partial: leave out classes that only one side has.

    Raises:
        UserError: the names are not the same, or a name stands for several classes.
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
    """Both lists in one sentence."""
    lists = [", ".join(names_of(c)[:SHOWN]) + ", ..." * (len(c) > SHOWN) for c in (theirs, ours)]
    return UserError(
        f"{path} is a detector of other classes than the dataset's: it knows {len(theirs)} ({lists[0]}), the dataset "
        f"has {len(ours)} ({lists[1]}), in this order; use the dataset that it was trained on or other weights, or "
        "train from all but its classes with train.init_partial=True"
    )


def reorder(
    state: dict[str, Tensor], wanted: dict[str, Tensor], order: dict[int, int], theirs: int, ours: int
) -> dict[str, Tensor] | None:
    """Weights with each class's outputs where this detector has them.

    Args:
        state: of `theirs` classes.  wanted: this detector's, of `ours`; its values stay where `order` has nothing.
        order: from `places`.

    Returns:
        None where this kind of detector keeps its classes in a way that is not known here.
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
    """How many rows of a tensor of an R-CNN belong to each class; 0: it knows no classes."""
    if name.startswith(_BOXES) and ".cls_score." in name and length == classes + 1:
        return 1
    if name.startswith(_BOXES) and ".bbox_pred." in name and length == 4 * classes:
        return 4 * (classes > 1)
    if name.startswith("roi_heads.mask_head.predictor.") and length == classes:
        return int(classes > 1)
    return 0
