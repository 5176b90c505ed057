"""AP of one set of predictions by other evaluators: pycocotools' figure."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@pytest.fixture(scope="module")
def files():
    """The content of an annotation file and detections: boxes of three classes, found at about the right place."""
    rng, annotations, detections = np.random.default_rng(0), [], []
    for image in range(1, 9):
        for _ in range(6):
            box, category = np.append(rng.uniform(0, 60, 2), rng.uniform(8, 40, 2)), int(rng.integers(1, 4))
            about = {"image_id": image, "category_id": category}
            area = float(box[2] * box[3])
            annotations.append({**about, "id": len(annotations) + 1, "bbox": box.tolist(), "area": area, "iscrowd": 0})
            found = box + rng.normal(0, 2, 4)
            detections.append({**about, "bbox": found.tolist(), "score": float(rng.uniform(0.1, 1))})
    images = [{"id": number, "file_name": f"{number}.png", "height": 100, "width": 100} for number in range(1, 9)]
    return {
        "images": images,
        "categories": [{"id": n, "name": str(n)} for n in (1, 2, 3)],
        "annotations": annotations,
    }, (detections)


def average_precision(coco, evaluation, files) -> float:
    truth, detections = files
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco()
        data.dataset = truth
        data.createIndex()
        result = evaluation(data, data.loadRes(detections), "bbox")
        result.evaluate()
        result.accumulate()
        result.summarize()
    return float(result.stats[0])


@pytest.fixture(scope="module")
def wanted(files) -> float:
    figure = average_precision(COCO, COCOeval, files)
    assert 0.1 < figure < 0.9
    return figure


def test_faster_coco_eval(files, wanted):
    theirs = pytest.importorskip("faster_coco_eval")
    assert average_precision(theirs.COCO, theirs.COCOeval_faster, files) == pytest.approx(wanted, abs=1e-12)


def by_image(files):
    """For each image: boxes, classes and scores of detections; boxes and classes of objects. Boxes are corners."""
    truth, detections = files
    for image in truth["images"]:
        for entries in (
            [d for d in part if d["image_id"] == image["id"]] for part in (detections, truth["annotations"])
        ):
            boxes = np.array([entry["bbox"] for entry in entries])
            boxes[:, 2:] += boxes[:, :2]
            classes = np.array([entry["category_id"] - 1 for entry in entries])
            yield boxes, classes, np.array([entry.get("score", 1.0) for entry in entries])


def test_torchmetrics(files, wanted):
    detection = pytest.importorskip("torchmetrics.detection")
    import torch

    metric = detection.MeanAveragePrecision()
    parts = [
        {"boxes": torch.tensor(b), "labels": torch.tensor(c), "scores": torch.tensor(s)} for b, c, s in by_image(files)
    ]
    metric.update(parts[::2], parts[1::2])
    assert float(metric.compute()["map"]) == pytest.approx(wanted, abs=1e-6)


def test_globox(files, wanted, tmp_path):
    globox = pytest.importorskip("globox")
    for name, content in zip(("truth", "found"), files, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    truth = globox.AnnotationSet.from_coco(tmp_path / "truth.json")
    evaluation = globox.COCOEvaluator(ground_truths=truth, predictions=truth.from_results(tmp_path / "found.json"))
    assert evaluation.ap() == pytest.approx(wanted, abs=1e-6)


def test_supervision(files, wanted):
    sv = pytest.importorskip("supervision")
    parts = [sv.Detections(xyxy=b, class_id=c, confidence=s) for b, c, s in by_image(files)]
    figure = sv.metrics.MeanAveragePrecision().update(parts[::2], parts[1::2]).compute().map50_95
    assert figure == pytest.approx(wanted, abs=1e-6)
