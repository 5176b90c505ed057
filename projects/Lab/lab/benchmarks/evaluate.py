"""`benchmark.py evaluate`: COCO AP with hotcoco against pycocotools, on the same generated detections.

5,000 images (or --images), the size of COCO's validation set, with 0 to 14 objects and 100 detections each: boxes near
the objects and elsewhere. Fails unless the results are bit-identical.
"""

import argparse
import tempfile
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator

from cropfield.evaluation import HotCOCOEvaluator
from lab.benchmarks.comparison import Comparison, compare
from pretrain.errors import UserError
from pretrain.files import write_json

SIDE, CATEGORIES, DETECTIONS = 640, 80, 100
NAME = "benchmark_of_evaluators"


def run(options: argparse.Namespace) -> list[Comparison]:
    """Box AP in one pair of runs (or --pairs), because pycocotools takes minutes."""
    what = {"images": options.images or 5000, "detections_per_image": DETECTIONS, "tasks": ["bbox"]}
    what["clock"] = "CPU time of all threads"
    with tempfile.TemporaryDirectory() as folder:
        predictions = make_dataset(Path(folder, "labels.json"), what["images"])
        try:
            fast = Evaluation(HotCOCOEvaluator(NAME, tasks=("bbox",)), predictions)
            official = Evaluation(COCOEvaluator(NAME, tasks=("bbox",), use_fast_impl=False), predictions)
            name = "COCO box AP, hotcoco / pycocotools"
            result = compare(name, fast, official, options.pairs or 1, what, time.process_time)
        finally:
            DatasetCatalog.remove(NAME)
            MetadataCatalog.remove(NAME)
    result.tables["AP of the generated detections, by both"] = [same_figures(fast.figures, official.figures)]
    return [result]


class Evaluation:
    """Callable that evaluates the predictions; the last results are kept."""

    def __init__(self, evaluator: COCOEvaluator, predictions: list[dict]):
        self.evaluator, self.predictions, self.figures = evaluator, predictions, {}

    def __call__(self) -> None:
        self.evaluator.reset()
        self.evaluator._predictions = deepcopy(self.predictions)  # the evaluator modifies category ids in place
        self.figures = self.evaluator.evaluate()["bbox"]


def same_figures(ours: dict[str, float], official: dict[str, float]) -> dict[str, float]:
    """Return the metrics over all classes; raises `UserError` if any differs."""
    differing = [name for name in official if not np.array_equal(ours.get(name), official[name], equal_nan=True)]
    if differing or ours.keys() != official.keys():
        raise UserError(f"hotcoco and pycocotools differ in {', '.join(differing) or 'what they measure'}: report this")
    return {name: value for name, value in official.items() if not name.startswith("AP-")}


def make_dataset(file: Path, images: int) -> list[dict]:
    """Write and register annotations; returns predictions as collected by `COCOEvaluator`, with categories from 0."""
    rng, annotations, predictions = np.random.default_rng(0), [], []
    for image in range(images):
        boxes = random_boxes(rng, int(rng.integers(0, 15)))
        classes = rng.integers(CATEGORIES, size=len(boxes))
        for box, category in zip(boxes, classes, strict=True):
            entry = {"id": 1 + len(annotations), "image_id": image, "category_id": 1 + int(category)}
            entry |= {"bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": int(rng.random() < 0.02)}
            annotations.append(entry)
        predictions.append({"image_id": image, "instances": detections(rng, image, boxes, classes)})
    categories = [{"id": 1 + c, "name": f"c{c}"} for c in range(CATEGORIES)]
    entries = [{"id": i, "file_name": f"{i}.jpg", "height": SIDE, "width": SIDE} for i in range(images)]
    write_json(file, {"images": entries, "annotations": annotations, "categories": categories})
    register_coco_instances(NAME, {}, str(file), str(file.parent))
    DatasetCatalog.get(NAME)
    return predictions


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes (x, y, width, height) inside the image, with log-uniform sides."""
    sides = np.exp(rng.uniform(np.log(8), np.log(SIDE / 2), (count, 2)))
    return np.concatenate([rng.uniform(0, SIDE - sides), sides], axis=1).round(2)


def detections(rng: np.random.Generator, image: int, boxes: np.ndarray, classes: np.ndarray) -> list[dict]:
    """Four detections near each object and the rest anywhere, with ties in the scores."""
    near = np.repeat(boxes, 4, axis=0) * rng.uniform(0.85, 1.15, (4 * len(boxes), 4))
    found = np.concatenate([near, random_boxes(rng, DETECTIONS - len(near))]).round(2)
    categories = np.concatenate([np.repeat(classes, 4), rng.integers(CATEGORIES, size=DETECTIONS - len(near))])
    return [
        {"image_id": image, "category_id": int(c), "bbox": box.tolist(), "score": float(s)}
        for box, c, s in zip(found, categories, rng.random(DETECTIONS).round(3), strict=True)
    ]
