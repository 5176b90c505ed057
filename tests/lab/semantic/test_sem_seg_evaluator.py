"""Detectron2's mIoU, which the ADE20K configs report, against a direct formula and against torchmetrics."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from lab.semantic.datasets import read_labels

CLASSES = 6


@pytest.fixture
def evaluate(tmp_path):
    """evaluate(truths, predictions) -> SemSegEvaluator's figures; both lists of integer arrays (H, W)."""
    names = []

    def run(truths, predictions):
        name = f"{tmp_path}/{len(names)}"
        names.append(name)
        entries = []
        for i, truth in enumerate(truths):
            Image.fromarray(truth.astype(np.uint8)).save(tmp_path / f"{len(names)}_{i}.png")
            entries.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(tmp_path / f"{len(names)}_{i}.png")})
        DatasetCatalog.register(name, lambda: entries)
        MetadataCatalog.get(name).set(stuff_classes=[f"c{i}" for i in range(CLASSES)], ignore_label=255)
        evaluator = SemSegEvaluator(name, distributed=False, sem_seg_loading_fn=read_labels)
        evaluator.reset()
        for entry, prediction in zip(entries, predictions, strict=True):
            scores = torch.nn.functional.one_hot(torch.from_numpy(prediction), CLASSES).permute(2, 0, 1)
            evaluator.process([entry], [{"sem_seg": scores}])
        return evaluator.evaluate()["sem_seg"]

    yield run
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def pairs(seed: int = 0, classes: int = CLASSES):
    """Three images of different sizes, right at about two thirds of the pixels; a tenth is not counted."""
    rng = np.random.default_rng(seed)
    truths = [rng.integers(0, classes, size) for size in ((20, 30), (31, 17), (8, 50))]
    guesses = [np.where(rng.random(t.shape) < 0.6, t, rng.integers(0, CLASSES, t.shape)) for t in truths]
    return [np.where(rng.random(t.shape) < 0.1, 255, t) for t in truths], guesses


def test_against_intersection_over_union_by_class(evaluate):
    truths, guesses = pairs()
    found = evaluate(truths, guesses)
    truth, guess = (np.concatenate([a.ravel() for a in arrays]) for arrays in (truths, guesses))
    truth, guess = truth[truth != 255], guess[truth != 255]
    ious = [np.sum((truth == c) & (guess == c)) / np.sum((truth == c) | (guess == c)) for c in range(CLASSES)]
    assert [found[f"IoU-c{c}"] for c in range(CLASSES)] == pytest.approx([100 * iou for iou in ious])
    assert found["mIoU"] == pytest.approx(100 * np.mean(ious)) and 30 < found["mIoU"] < 70
    assert found["pACC"] == pytest.approx(100 * np.mean(truth == guess))


def test_a_known_answer(evaluate):
    """Left half class 0, right half 1; the guess has the border a quarter too far right: 1/2 / 3/4 and 1/4 / 1/2."""
    truth = np.repeat([[0, 0, 1, 1]], 4, axis=0)
    found = evaluate([truth], [np.repeat([[0, 0, 0, 1]], 4, axis=0)])
    assert found["mIoU"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert evaluate([truth], [truth])["mIoU"] == 100


def test_against_torchmetrics(evaluate):
    """The same figure over one confusion matrix of all images, where every class occurs."""
    classification = pytest.importorskip("torchmetrics.classification")
    for seed in range(3):
        truths, guesses = pairs(seed)
        found = evaluate(truths, guesses)
        for average, figures in (("none", [found[f"IoU-c{c}"] for c in range(CLASSES)]), ("macro", [found["mIoU"]])):
            metric = classification.MulticlassJaccardIndex(CLASSES, average=average, ignore_index=255)
            for truth, guess in zip(truths, guesses, strict=True):
                metric.update(torch.from_numpy(guess), torch.from_numpy(truth))
            assert figures == pytest.approx((100 * metric.compute()).reshape(-1).tolist(), abs=1e-4)


def test_a_class_that_no_image_has_is_left_out(evaluate):
    """Detectron2 means over the classes of the truth; torchmetrics counts a wrong guess of an absent class as 0."""
    truths, guesses = pairs(classes=CLASSES - 1)
    found = evaluate(truths, guesses)
    assert np.isnan(found["IoU-c5"])
    assert found["mIoU"] == pytest.approx(np.mean([found[f"IoU-c{c}"] for c in range(CLASSES - 1)]))
