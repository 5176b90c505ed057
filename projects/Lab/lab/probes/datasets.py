"""The labelled datasets of StoP's tables in their published layout, by name: `open_dataset`.

imagenet       train/n01440764/*.JPEG, val/n01440764/*.JPEG: validation images sorted into their synsets, as usual
imagenet_1pct  the same; the training images are those of a list, such as SimCLR's 1percent.txt
places205      trainvalsplit_places205/{train,val}_places205.csv and the images256 that they name; or train/a/abbey/
inat18         train2018.json, val2018.json and the train_val2018 that they name; or train/7477/, val/7477/
cifar100       train/apple/*.png, test/apple/*.png; the superclass may come before, as in fast.ai's copy
clevr_count, clevr_dist   CLEVR_v1.0/{images,scenes}: the two tasks that VTAB defines (StoP, Table 4)

torchvision supports none of these layouts: its CIFAR100 reads pickles, its INaturalist reads folders by category, its
CLEVR has no distances, and all of them stop at the first broken image.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch

from lab.probes.labelled import LabelledImages, class_indices, label_by_folder, labelled_folder, listed_files
from lab.probes.recipes import DATASETS
from pretrain.data.lists import CocoJson, ImageList
from pretrain.errors import UserError

Split = tuple[LabelledImages, LabelledImages]  # training and validation images
# CLEVR: the class is the number of objects in a scene; or the bin of the closest one's distance from the camera, in
# Blender's units, with VTAB's upper bounds. The last bin has none; a distance equal to a bound is in the bin below it.
OBJECTS = range(3, 11)
DISTANCE_ENDS = (8.0, 8.5, 9.0, 9.5, 10.0)
_PLACES_IMAGES = "data/vision/torralba/deeplearning/images256"  # where its archive unpacks to


def open_dataset(name: str, root: str | Path, train_list: str | Path | None = None) -> Split:
    """Open training and validation images of one of `DATASETS`.

    Args:
        root: the dataset's folder.
        train_list: for imagenet_1pct, a text file with one training image a line (`n01440764_10026.JPEG`).

    Raises:
        UserError: the name is unknown, or `root` does not contain that dataset.
    """
    root = Path(root)
    if name not in DATASETS:
        raise UserError(f"there is no dataset {name}; supported are {', '.join(DATASETS)}")
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; give the folder of the dataset {name}")
    if (name == "imagenet_1pct") != (train_list is not None):
        raise UserError("give --train-list, a list of training images, with imagenet_1pct and only then")
    if name.startswith("clevr"):
        train, val = (clevr_split(root, split, name.partition("_")[2]) for split in ("train", "val"))
    elif name == "imagenet_1pct":
        train, val = _imagenet_subset(root, Path(train_list))
    elif name == "places205" and (root / "trainvalsplit_places205").is_dir():
        train, val = _places_csv(root)
    elif name == "inat18" and (root / "train2018.json").is_file():
        train, val = _inat_json(root)
    else:
        train, val = _folders(root, nested=name in ("places205", "cifar100"))
    return train, val


def framing_of(name: str) -> str:
    """How VISSL's configs crop a dataset's images for a ViT, see `framing.view`; only CLEVR's are not cropped."""
    return "whole" if name.startswith("clevr") else "centre"


def _folders(root: Path, nested: bool) -> Split:
    val = next((root / split for split in ("val", "test") if (root / split).is_dir()), root / "val")
    train = labelled_folder(root / "train", nested=nested)
    return train, labelled_folder(val, train.classes, nested)


def _imagenet_subset(root: Path, train_list: Path) -> Split:
    """All of the folder's synsets are classes, even those without an image in the list."""
    folder = root / "train"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give ImageNet's folder, with train/ and val/ in it")
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    train = label_by_folder(ImageList(train_list, folder), classes)
    return train, labelled_folder(root / "val", classes)


def _places_csv(root: Path) -> Split:
    """Read lines such as "a/abbey/gsun_….jpg 0"; classes are folders, so the number is ignored."""
    images = next((folder for folder in (root / _PLACES_IMAGES, root / "images256") if folder.is_dir()), root)
    train = label_by_folder(_places_files(root, "train", images), nested=True)
    return train, label_by_folder(_places_files(root, "val", images), train.classes, nested=True)


def _places_files(root: Path, split: str, images: Path):
    file = root / "trainvalsplit_places205" / f"{split}_places205.csv"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); unpack Places205's splits again") from error
    return listed_files(images, [line.rpartition(" ")[0].lstrip("/") for line in lines if line.strip()], file)


def _inat_json(root: Path) -> Split:
    """Read COCO-format files: `images` with `file_name` relative to `root`, and `annotations` with one category an
    image.
    """
    train, categories = _inat_split(root, "train")
    val, val_categories = _inat_split(root, "val")
    classes = sorted(set(categories), key=int)
    return (
        LabelledImages(train, class_indices(categories, classes, root), classes),
        LabelledImages(val, class_indices(val_categories, classes, root / "val2018.json"), classes),
    )


def _inat_split(root: Path, split: str) -> tuple[CocoJson, list[str]]:
    file = root / f"{split}2018.json"
    source = CocoJson(file, root)
    content = json.loads(file.read_bytes())
    try:
        category = {entry["image_id"]: entry["category_id"] for entry in content["annotations"]}
        return source, [str(category[image["id"]]) for image in content["images"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: {error} is missing in annotations or images; unpack the file again") from error


def count_label(scene: dict) -> int:
    """Number of objects, from 3, as class 0 to 7. Raises ValueError for other numbers."""
    return OBJECTS.index(len(scene["objects"]))


def distance_label(scene: dict) -> int:
    """Bin, of six, of the closest object's distance, which is the third of its `pixel_coords`."""
    return int(np.searchsorted(DISTANCE_ENDS, min(thing["pixel_coords"][2] for thing in scene["objects"]), side="left"))


def clevr_split(root: str | Path, split: str, question: str) -> LabelledImages:
    """Images of `root`/images/`split`, labelled from `root`/scenes/CLEVR_`split`_scenes.json.

    Args:
        root: the folder CLEVR_v1.0, or its parent.
        question: "count" or "dist".

    Raises:
        UserError: a file is missing or not JSON, or a scene does not have CLEVR's format.
    """
    root = Path(root, "CLEVR_v1.0") if Path(root, "CLEVR_v1.0").is_dir() else Path(root)
    file = root / "scenes" / f"CLEVR_{split}_scenes.json"
    try:
        scenes = json.loads(file.read_bytes())["scenes"]
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give the folder CLEVR_v1.0") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a CLEVR scene file ({error}); unpack it again") from error
    label_of, names, labels = count_label if question == "count" else distance_label, [], []
    for index, scene in enumerate(scenes):
        try:
            names.append(scene["image_filename"])
            labels.append(label_of(scene))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{file}: scenes[{index}] is not as CLEVR's are ({error}); unpack it again") from error
    bins = [*(f"up to {end}" for end in DISTANCE_ENDS), f"above {DISTANCE_ENDS[-1]}"]
    classes = [f"{n} objects" for n in OBJECTS] if question == "count" else bins
    return LabelledImages(listed_files(root / "images" / split, names, file), torch.tensor(labels), classes)
