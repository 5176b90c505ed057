"""COCO files that other packages write: as they are read here, detections equal to the truth have an AP of 100."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cropfield.datasets import check_coco_file, read_coco_file

SINGLE = {"area": 1200, "iscrowd": 0}


@pytest.fixture
def plain(tmp_path) -> Path:
    """A folder with two images, and labels.json of their four objects."""
    images = [{"id": n, "file_name": f"{n}.png", "height": 90, "width": 120} for n in (1, 2)]
    for image in images:
        cv2.imwrite(str(tmp_path / image["file_name"]), np.zeros((90, 120, 3), np.uint8))
    annotations = [
        {"id": n, "image_id": 1 + n // 3, "category_id": 3 + n % 2, "bbox": [9 * n, 5, 40, 30]} | SINGLE
        for n in (1, 2, 3, 4)
    ]
    categories = [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    return tmp_path


def check(written: Path, images: Path) -> None:
    check_coco_file(str(written), str(images))
    content = json.loads(json.dumps(read_coco_file(str(written))))  # pycocotools takes lists only
    assert len(content["annotations"]) == 4
    coco = COCO()
    coco.dataset = content | {"info": {}}
    coco.createIndex()
    keys = ("image_id", "category_id", "bbox")
    found = [{key: annotation[key] for key in keys} | {"score": 1.0} for annotation in content["annotations"]]
    evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_globox(plain):
    globox = pytest.importorskip("globox")
    globox.AnnotationSet.from_coco(plain / "labels.json").save_coco(
        plain / "written.json", auto_ids=True, imageid_to_id={"1.png": 1, "2.png": 2}
    )
    check(plain / "written.json", plain)


def test_pylabel(plain):
    importer = pytest.importorskip("pylabel.importer")
    importer.ImportCoco(str(plain / "labels.json")).export.ExportToCoco(str(plain / "written.json"))
    check(plain / "written.json", plain)


def test_datumaro(plain):
    datumaro = pytest.importorskip("datumaro")
    for folder in ("images/train", "annotations"):
        (plain / folder).mkdir(parents=True)
    for image in plain.glob("*.png"):
        image.rename(plain / "images" / "train" / image.name)
    (plain / "labels.json").rename(plain / "annotations" / "instances_train.json")
    datumaro.Dataset.import_from(str(plain), "coco").export(str(plain / "out"), "coco_instances", save_media=True)
    check(plain / "out" / "annotations" / "instances_train.json", plain / "out" / "images" / "train")
