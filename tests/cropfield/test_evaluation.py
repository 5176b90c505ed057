"""hotcoco's figures against pycocotools'."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as run_lengths

from cropfield.evaluation import HotCOCOEvaluator, readable_by
from pretrain.errors import UserError

SIDE, CATEGORIES = 96, (3, 5, 9)
needs_hotcoco = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed")


def random_box(rng: np.random.Generator) -> np.ndarray:
    """(x, y, width, height) of whole pixels inside the image, small and large."""
    width, height = np.exp(rng.uniform(1.5, 4.4, 2)).astype(int)
    return np.array([rng.integers(0, SIDE - width), rng.integers(0, SIDE - height), width, height])


def filled(box) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    x, y, width, height = box
    mask[y : y + height, x : x + width] = 1
    return mask


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A registered dataset of 20 images (crowds, odd ids, an empty image) and detections with tied scores."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("scenes")
    images = [{"id": 7 * i + 1, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in range(20)]
    annotations, inputs, outputs = [], [], []
    for image in images:
        truth = [(random_box(rng), rng.integers(3)) for _ in range(rng.integers(0, 8))]
        for box, category in truth:
            counts = run_lengths.encode(filled(box))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image["id"], "category_id": CATEGORIES[category]}
                | {"bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": int(rng.random() < 0.1)}
                | {"segmentation": counts | {"counts": counts["counts"].decode()}}
            )
        near = [(np.maximum(box + rng.integers(-4, 5, 4), 0), c) for box, c in truth for _ in range(3)]
        found = near + [(random_box(rng), rng.integers(3)) for _ in range(10)]
        boxes = torch.tensor(np.array([b for b, _ in found]), dtype=torch.float32)
        instances = Instances((SIDE, SIDE), pred_boxes=Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)))
        instances.scores = torch.tensor(rng.random(len(found)).round(1), dtype=torch.float32)
        instances.pred_classes = torch.tensor([int(c) for _, c in found])
        instances.pred_masks = torch.tensor(np.stack([filled(b) for b, _ in found]).astype(bool))
        inputs.append({"image_id": image["id"]})
        outputs.append({"instances": instances})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in CATEGORIES],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    register_coco_instances(folder.name, {}, str(folder / "labels.json"), str(folder))
    DatasetCatalog.get(folder.name)
    return folder.name, inputs, outputs


def measure(evaluator, inputs, outputs, **options) -> dict:
    evaluator.reset()
    evaluator.process(inputs, outputs)
    return evaluator.evaluate(**options)


@needs_hotcoco
@pytest.mark.parametrize("options", [{}, {"img_ids": [1, 8, 15]}], ids=["all", "some images"])
def test_the_same_figures_to_the_last_bit(scenes, tmp_path, options):
    name, inputs, outputs = scenes
    results = []
    for kind in (COCOEvaluator, HotCOCOEvaluator):
        extra = {"use_fast_impl": False} if kind is COCOEvaluator else {}
        evaluator = kind(name, tasks=("bbox", "segm"), output_dir=str(tmp_path / kind.__name__), **extra)
        results.append(measure(evaluator, inputs, outputs, **options))
    official, fast = results
    assert 5 < official["bbox"]["AP"] < 95 and "AP-c9" in official["segm"]
    np.testing.assert_equal(dict(fast), dict(official))
    written = [
        json.loads((tmp_path / k.__name__ / "coco_instances_results.json").read_text())
        for k in (COCOEvaluator, HotCOCOEvaluator)
    ]
    assert written[0] == written[1]


@needs_hotcoco
def test_without_a_detection_there_is_no_ap(scenes):
    name, inputs, outputs = scenes
    nothing = [{"instances": output["instances"][:0]} for output in outputs]
    for task, result in measure(HotCOCOEvaluator(name, tasks=("bbox", "segm")), inputs, nothing).items():
        assert np.isnan(result["AP"]), task


@needs_hotcoco
def test_what_detection_does_not_need_may_be_anything(scenes, tmp_path, monkeypatch):
    """hotcoco itself wants types of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name, inputs, outputs = scenes
    json_file = tmp_path / "labels.json"
    content = json.loads(open(MetadataCatalog.get(name).json_file).read())
    json_file.write_text(json.dumps(content | {"info": [], "licenses": "none"}))
    register_coco_instances("odd-info", {}, str(json_file), str(tmp_path))
    DatasetCatalog.get("odd-info")
    hotcoco = importlib.import_module("hotcoco")
    assert readable_by(hotcoco, str(json_file)) != str(json_file)
    expected = measure(HotCOCOEvaluator(name, tasks=("bbox",)), inputs, outputs)
    np.testing.assert_equal(measure(HotCOCOEvaluator("odd-info", tasks=("bbox",)), inputs, outputs), expected)


def test_a_file_that_hotcoco_cannot_read_at_all(tmp_path, monkeypatch):
    class Strict:
        @staticmethod
        def COCO(path):
            raise ValueError("no")

    monkeypatch.setattr("cropfield.evaluation.repaired_copy", lambda *unused: "copy")
    monkeypatch.setattr("cropfield.evaluation.checked_coco", lambda file: SimpleNamespace(content=None))
    with pytest.raises(UserError, match=r"hotcoco cannot read labels.json \(no\)"):
        readable_by(Strict, "labels.json")


def test_without_hotcoco_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(UserError, match="pip install hotcoco"):
        HotCOCOEvaluator("any")
