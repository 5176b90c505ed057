"""COCO annotation files: any node of a good one replaced, deleted, duplicated, nested, retyped or moved.

What is accepted goes the whole way: to Detectron2's reader, the mapper, pictures, label maps, pretraining's list; its
own truth has an AP of 100 by pycocotools and by hotcoco, and every object is there or was counted as taken out.
"""

import contextlib
import copy
import functools
import importlib.util
import io
import json
import os

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from harness import Wrong
from mutations import mutate_bytes, mutate_tree, pick
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cropfield.categories import of_file
from cropfield.coco_files import coco_images
from cropfield.datasets import check_can_be_evaluated, check_coco_file, dataset_name, has_masks, read_coco_file
from cropfield.drawing import draw_instances
from cropfield.evaluation import readable_by
from cropfield.image_ids import ImageIds
from cropfield.mapper import ImageMapper, ResizeScale
from lab.semantic.layout import convert_coco
from pretrain.data.decode import BrokenImage, decode_image
from pretrain.data.images import open_source
from pretrain.errors import UserError

SHARE = 2
hotcoco = importlib.import_module("hotcoco") if importlib.util.find_spec("hotcoco") else None
HEIGHT, WIDTHS = 40, (30, 48, 30, 48)
ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1")


@functools.cache
def pictures() -> list[bytes]:
    found = []
    for number, width in enumerate(WIDTHS):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file := io.BytesIO(), format="JPEG")
        found.append(file.getvalue())
    return found


def good(rng: np.random.Generator) -> dict:
    """Four images with objects of two classes: polygons, run lengths of both kinds, a crowd."""
    masks, annotations = pick(rng, ("polygon", "runs", "compressed", "all", "none")), []
    for number in range(int(rng.integers(4, 9))):
        image, kind = number % 4, masks if masks != "all" else pick(rng, ("polygon", "runs", "compressed"))
        x, y, w, h = (int(rng.integers(*span)) for span in ((0, 9), (0, 16), (4, 20), (4, 20)))
        inside = np.zeros((HEIGHT, WIDTHS[image]), np.uint8, order="F")
        inside[y : y + h, x : x + w] = 1
        ends = [*np.flatnonzero(np.diff(inside.T.ravel(), prepend=0)).tolist(), inside.size]
        segmentation = {
            "polygon": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            "runs": {"size": [HEIGHT, WIDTHS[image]], "counts": np.diff(ends, prepend=0).tolist()},
            "compressed": {"size": [HEIGHT, WIDTHS[image]], "counts": rle.encode(inside)["counts"].decode()},
            "none": [],
        }[kind]
        values = {"id": number + 1, "image_id": image + 1, "category_id": 1 + number % 2, "bbox": [x, y, w, h]}
        crowd = int(number > 4 and kind == "runs")
        annotations.append(values | {"area": w * h, "iscrowd": crowd, "segmentation": segmentation})
    names = [f"{number}.jpg" for number in range(4)]
    return {
        "info": {"year": 2017},
        "images": [
            {"id": i, "file_name": name, "height": HEIGHT, "width": width, "license": 1}
            for i, (name, width) in enumerate(zip(names, WIDTHS, strict=True), 1)
        ],
        "categories": [{"id": 1, "name": "a", "supercategory": "x"}, {"id": 2, "name": "b", "supercategory": "x"}],
        "annotations": annotations,
    }


def write(content, rng, path) -> bool:
    """Whether the file is `content` in plain UTF-8."""
    text, chance = json.dumps(content), rng.random()
    data = text.encode()
    if chance < 0.05:
        data = mutate_bytes(data, rng, 400)
    elif chance < 0.1:
        data = json.dumps(content, ensure_ascii=False).encode(pick(rng, ENCODINGS), "replace")
    path.write_bytes(data)
    return chance >= 0.1


def attempt(rng, folder):
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    for number, picture in enumerate(pictures()):
        (folder / f"{number}.jpg").write_bytes(picture)
    content, untouched, path = good(rng), rng.random() < 0.05, folder / "labels.json"
    before = copy.deepcopy(content)
    content = content if untouched else mutate_tree(content, rng)
    plain = write(content, rng, path)
    if rng.random() < 0.1:
        pretrain(str(path))
        return
    name = dataset_name(str(path), str(folder), otherwise="")
    repaired = read_coco_file(str(path))
    faults = check_coco_file(str(path), str(folder))
    if plain:
        account_for(content, repaired, faults)
    if untouched and plain:
        unchanged(before, repaired, faults)
    train(name, str(path))
    draw(repaired, folder, rng)
    try:
        check_can_be_evaluated(str(path))
    except UserError:
        if untouched and plain:
            raise
        return
    evaluate(MetadataCatalog.get(name).json_file, any(a.get("segmentation") for a in repaired["annotations"]))


def pretrain(path: str) -> None:
    source = open_source(path)
    for index in range(len(source)):
        with contextlib.suppress(BrokenImage):
            source.load(index)


def unchanged(before: dict, repaired: dict, faults: dict) -> None:
    """A good file stays as it is, and nothing is said of it but its crowds."""
    crowds = sum(annotation["iscrowd"] for annotation in before["annotations"])
    said = [count for words, count in faults.items() if count != crowds or "iscrowd" not in words]
    if said or json.loads(json.dumps(repaired["annotations"])) != before["annotations"]:
        raise Wrong(f"a good file was changed: {faults}")


def account_for(content: dict, repaired: dict, faults: dict) -> None:
    """Nothing goes in silence."""
    removed = sum(count for words, count in faults.items() if "annotations" in words or "boxes" in words)
    for part in ("images", "categories", "annotations"):
        lost = len(content[part]) - len(repaired[part])
        if lost and (part != "annotations" or lost > removed):
            raise Wrong(f"{lost} of {len(content[part])} {part} are gone, said was {dict(faults)}")


def train(name: str, path: str) -> None:
    try:
        masks = has_masks(path)
    except UserError:
        masks = False
    records = DatasetCatalog.get(name)
    resize = [ResizeScale(min_scale=0.5, max_scale=1.5, target_height=64, target_width=64)]
    how = {"augmentations": resize, "image_format": "RGB", "use_instance_mask": masks}
    mapper = ImageMapper(is_train=True, instance_mask_format="bitmask", **how)
    for record in records:
        try:
            objects = mapper(record)["instances"]
        except BrokenImage as error:
            raise UserError(str(error)) from error
        if not np.isfinite(objects.gt_boxes.tensor.numpy()).all():
            raise Wrong(f"boxes {objects.gt_boxes}")
        if len(objects) and not 0 <= objects.gt_classes.min() <= objects.gt_classes.max() < len(
            MetadataCatalog.get(name).thing_classes
        ):
            raise Wrong(f"classes {objects.gt_classes}")


def draw(content: dict, folder, rng) -> None:
    coco, ids = coco_images(content, folder), ImageIds(content["images"])
    for image_id, entry in coco.entries.items():
        image = decode_image(coco.path(image_id))
        draw_instances(image, coco.instances(image_id, coco.truth[image_id]), factor=1)
        if ids.take(str(coco.path(image_id)), *image.shape[:2]) not in coco.entries:
            raise Wrong(f"{entry} is another image in predictions")
    of_file(content)
    if rng.random() < 0.3:
        try:
            convert_coco({"training": (content, folder), "validation": (content, folder)}, folder / "semantic")
        except UserError as error:
            if str(folder) not in str(error):
                raise


def evaluate(json_file: str, masks: bool) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
    found, visible = [], True
    for annotation in truth.anns.values():
        if annotation["image_id"] in truth.imgs and not annotation["iscrowd"]:
            entry = {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
            if annotation.get("segmentation"):
                entry["segmentation"] = runs = truth.annToRLE(annotation)
                runs["counts"] = runs["counts"].decode() if isinstance(runs["counts"], bytes) else runs["counts"]
                visible &= rle.area(runs) > 0
            found.append(entry)
    masks = masks and visible and all("segmentation" in entry for entry in found)
    for task in ("bbox", "segm")[: 1 + masks]:
        other = "segmentation" if task == "bbox" else "bbox"  # with a box, COCO would take its area for the object's
        entries = [{key: value for key, value in entry.items() if key != other} for entry in found]
        with contextlib.redirect_stdout(io.StringIO()):
            official = COCOeval(truth, truth.loadRes(copy.deepcopy(entries)), task)
            official.evaluate(), official.accumulate(), official.summarize()
            figures = [official.stats[0]]
            if hotcoco:
                hot_truth = hotcoco.COCO(readable_by(hotcoco, json_file))
                hot = hotcoco.COCOeval(hot_truth, hot_truth.load_res(entries), task)
                hot.run()
                figures.append(hot.stats[0])
        if any(abs(figure - 1) > 1e-9 for figure in figures):
            raise Wrong(f"AP of the truth is {figures} ({task}; pycocotools, hotcoco)")
