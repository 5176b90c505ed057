"""Make datasets in Detectron2's layout for ADE20K, from ADE20K's raw labels or from any COCO file.

ROOT/images/{training,validation}/NAME.jpg
ROOT/annotations_detectron2/{training,validation}/NAME.png     the class from 0, 255 for ignored pixels
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from cropfield.coco_files import decode_mask
from lab.commands import new_folder, open_picture
from pretrain.errors import UserError
from pretrain.outputs import UniqueNames
from pretrain.progress import progress

LABELS, RAW_LABELS, IMAGES, NAMES = "annotations_detectron2", "annotations", "images", "classes.txt"
SPLITS = {"train": "training", "val": "validation"}
RAW_CLASSES = 150  # numbered from 1 in ADE20K; 0 is "other"
BACKGROUND, IGNORE = "background", 255


def convert_raw_labels(root: Path) -> dict[str, int]:
    """Convert ROOT/annotations, ADE20K's raw labels, to ROOT/annotations_detectron2; returns the number of files by
    split.

    Raises:
        UserError: there are no raw labels, or they are already converted; no partial result is left.
    """
    folders = [folder for folder in sorted((root / RAW_LABELS).glob("*")) if any(folder.glob("*.png"))]
    if not folders:
        raise UserError(f"there are no .png in {root / RAW_LABELS}/*; give the folder ADEChallengeData2016")
    counts = {}
    with new_folder(root / LABELS) as draft, ThreadPoolExecutor() as pool:
        for folder in folders:
            (draft / folder.name).mkdir()
            files = sorted(folder.glob("*.png"))
            done = pool.map(partial(_convert_file, draft / folder.name), files)
            counts[folder.name] = len(list(progress(done, f"files of {folder.name}", len(files))))
    return counts


def _convert_file(folder: Path, file: Path) -> None:
    """Convert raw labels 1 to 150 to 0 to 149, and 0 ("other") to 255."""
    picture = open_picture(file)
    raw = np.asarray(picture)
    if picture.mode != "L" or raw.max() > RAW_CLASSES:
        raise UserError(f"{file} holds no raw labels of ADE20K, grey and 0 to {RAW_CLASSES}; is it converted already?")
    Image.fromarray(raw - np.uint8(1)).save(folder / file.name)  # 0 wraps around


def convert_coco(splits: dict[str, tuple[dict, Path]], root: Path) -> dict[str, int]:
    """Convert COCO files and their image folders, by split ("training", "validation"), to the layout, with
    ROOT/classes.txt.

    Class 0 is the background; the categories follow, sorted by id. Smaller objects are on top of larger ones.

    Returns:
        Number of images by split.

    Raises:
        UserError: the splits' categories differ, or are too many, an object has no mask, an image is missing or not a
            .jpg, or `root` exists.
    """
    (names, *others) = (
        {
            entry["id"]: " ".join(entry["name"].split())
            for entry in sorted(content["categories"], key=lambda entry: entry["id"])
        }
        for content, _ in splits.values()
    )
    if any(other != names for other in others):
        raise UserError("the two COCO files have different categories; write the same `categories` into both")
    if len(names) >= IGNORE:
        raise UserError(f"{len(names)} categories and the background do not fit into labels below {IGNORE}")
    if len({BACKGROUND, *names.values()} - {""}) <= len(names):
        raise UserError(f"categories need different names, none of them {BACKGROUND!r} or empty; rename one")
    class_of, counts = {category: number for number, category in enumerate(names, 1)}, {}
    with new_folder(root) as draft:
        for split, (content, folder) in splits.items():
            for part in (IMAGES, LABELS):
                (draft / part / split).mkdir(parents=True)
            annotations = {entry["id"]: [] for entry in content["images"]}
            for annotation in content["annotations"]:
                if not annotation.get("segmentation"):
                    raise UserError(
                        f"annotation {annotation['id']} of {split} has no mask, and would be taught as background: "
                        "give masks to all objects, or leave such images out"
                    )
                annotations[annotation["image_id"]].append(annotation)
            free = UniqueNames()  # keeps a/b.jpg and a_b.jpg apart
            for entry in progress(content["images"], f"images of {split}", len(content["images"])):
                stem = free.take(str(Path(entry["file_name"]).with_suffix("")).replace("/", "_") + ".png").stem
                _copy_jpeg(folder / entry["file_name"], draft / IMAGES / split / f"{stem}.jpg")
                labels = paint_labels(annotations[entry["id"]], class_of, entry["height"], entry["width"])
                Image.fromarray(labels).save(draft / LABELS / split / f"{stem}.png")
            counts[split] = len(content["images"])
        names = "\n".join([BACKGROUND, *names.values()])
        (draft / NAMES).write_text(f"{names}\n", encoding="utf-8", errors="replace")  # lone surrogates
    return counts


def paint_labels(annotations: list[dict], class_of: dict[int, int], height: int, width: int) -> np.ndarray:
    """Label of each pixel, uint8 (height, width): 0 without an object; smaller objects are on top of larger ones."""
    labels = np.zeros((height, width), dtype=np.uint8)
    masks = [(decode_mask(a.get("segmentation"), height, width), class_of[a["category_id"]]) for a in annotations]
    for mask, label in sorted((m for m in masks if m[0] is not None), key=lambda m: -m[0].sum()):
        labels[mask] = label
    return labels


def _copy_jpeg(source: Path, target: Path) -> None:
    if source.suffix.lower() not in (".jpg", ".jpeg") or not source.is_file():
        raise UserError(f"there is no .jpg {source}, and the layout has no other images; convert them first")
    shutil.copyfile(source, target)
