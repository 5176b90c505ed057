"""Semantic segmentation datasets in ADE20K's layout (see `layout`): those that Detectron2 registers, or any folder."""

import os
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES
from PIL import ImageOps

from cropfield import mapper
from lab.commands import open_picture
from lab.semantic.layout import IGNORE, IMAGES, LABELS, RAW_LABELS, SPLITS
from pretrain.data.decode import BrokenImage
from pretrain.errors import UserError
from pretrain.files import read_tensors

SAMPLES = 32  # label files checked before a run


def semantic_dataset(root: str, classes: str, split: str) -> str:
    """Detectron2's name of a split; registers a folder of your own, and checks the split.

    Args:
        root: a folder in ADE20K's layout; "" is Detectron2's registered ADE20K, under DETECTRON2_DATASETS.
        classes: a text file with one name a line, in the order of the labels; "" is ADE20K's 150.
        split: "train" or "val".

    Raises:
        UserError: see `check_layout`.
    """
    name = f"ade20k_sem_seg_{split}"
    if root:
        root = os.path.abspath(root)
        name = f"{root}:{classes and os.path.abspath(classes)}:{split}"
        if name not in DatasetCatalog.list():
            names, (images, labels) = class_names(classes), (f"{root}/{p}/{SPLITS[split]}" for p in (IMAGES, LABELS))
            DatasetCatalog.register(name, partial(load_sem_seg, labels, images, gt_ext="png", image_ext="jpg"))
            facts = dict(stuff_classes=names, image_root=images, sem_seg_root=labels, ignore_label=IGNORE)
            MetadataCatalog.get(name).set(evaluator_type="sem_seg", **facts)
    facts = MetadataCatalog.get(name)
    check_layout(Path(facts.image_root), Path(facts.sem_seg_root), len(facts.stuff_classes))
    return name


def class_names(classes: str) -> list[str]:
    """Class names from a text file, one a line; ADE20K's 150 for ""."""
    if not classes:
        return list(ADE20K_SEM_SEG_CATEGORIES)
    try:
        names = [line.strip() for line in Path(classes).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(
            f"cannot read the class names {classes}: {reason}; give a text file, one name per line"
        ) from None
    if not 2 <= len(names) <= IGNORE or len(set(names)) < len(names):
        raise UserError(f"{classes} has {len(set(names))} different names in {len(names)} lines; give 2 to {IGNORE}")
    return names


def num_semantic_classes(classes: str) -> int:
    """Number of names in a file read by `class_names`; 150 for ""."""
    return len(class_names(classes))


def has_class_token(weights: str, otherwise: bool = True) -> bool:
    """Whether a weight file's backbone has a class token (CropField's does, StoP's does not); `otherwise` for ""."""
    if not weights:
        return otherwise
    return any(name.rpartition(".")[2] in ("cls_token", "class_token") for name in read_tensors(weights)[0])


def read_labels(path: str, dtype: type = np.uint8, copy: bool = True) -> np.ndarray:
    """Read labels (H, W) for `SemSegEvaluator`, whose own reader fails with numpy 2 (`np.array(..., copy=False)`)."""
    try:
        return mapper.read_labels(path).astype(dtype)
    except BrokenImage as error:
        raise UserError(f"{error}; get it again") from None


def check_layout(images: Path, labels: Path, num_classes: int) -> None:
    """Check a split before it is used.

    Raises:
        UserError: a folder is missing or empty, an image has no labels or labels have no image, or one of some evenly
            spaced label files is not 8-bit grey, differs in size from its image, or has a label other than a class or
            255.
    """
    raw = labels.parents[1] / RAW_LABELS / labels.name
    if not labels.is_dir() and labels.parent.name == LABELS and raw.is_dir():
        raise UserError(
            f"{raw} holds ADE20K's raw labels (0 = other, classes from 1), and {labels} is not there: convert them by "
            f"projects/Lab/tools/prepare_ade20k.py {labels.parents[1]}"
        )
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}: set DETECTRON2_DATASETS to the folder with ADEChallengeData2016, "
                "or dataset.root to a folder in its layout (docs/reproduce/ade20k.md)"
            )
    pictures, truths = ({p.stem for p in f.glob(f"*.{e}")} for f, e in ((images, "jpg"), (labels, "png")))
    if not pictures:
        raise UserError(f"there is no .jpg in {images}; put the images there")
    if alone := sorted(pictures ^ truths):
        what = f"{images / alone[0]}.jpg has no labels" if alone[0] in pictures else f"{labels / alone[0]}.png no image"
        raise UserError(f"{len(alone)} files have no partner: {what}; complete {labels}, or remove the surplus files")
    stems = sorted(truths)
    for index in np.unique(np.linspace(0, len(stems) - 1, SAMPLES).round().astype(int)):
        _check_labels(images / f"{stems[index]}.jpg", labels / f"{stems[index]}.png", num_classes)


def _check_labels(image: Path, labels: Path, num_classes: int) -> None:
    size, truth = ImageOps.exif_transpose(open_picture(image)).size, open_picture(labels)  # as Detectron2 reads it
    mode, label_size, found = truth.mode, truth.size, np.unique(np.asarray(truth))
    if mode != "L":
        raise UserError(f"{labels} is of mode {mode}, and labels are grey 8-bit (mode L): write the class as the value")
    if size != label_size:
        raise UserError(f"{labels} has {label_size} pixels (width, height) and its image {size}: make them equal")
    if wrong := [int(value) for value in found if value >= num_classes and value != IGNORE]:
        raise UserError(
            f"{labels} has the label {wrong[0]}, and there are {num_classes} classes, from 0, and 255 for none: check "
            "the labels and dataset.classes"
        )
