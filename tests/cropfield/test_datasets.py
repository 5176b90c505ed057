"""COCO files: names, classes, and a sentence for each fault."""

import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from cropfield.datasets import (
    check_coco_file,
    check_registered,
    check_same_categories,
    dataset_name,
    evaluation_tasks,
    has_masks,
    mask_features,
    num_classes,
)
from pretrain.errors import UserError


def coco(**changes) -> dict:
    """A COCO file of one image with one box; ids do not count from one."""
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 20, "width": 30}],
        "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "ant"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 9, "bbox": [2, 3, 10, 10], "iscrowd": 0, "area": 100}],
    } | changes


@pytest.fixture
def write(tmp_path):
    """Write a COCO file and its image folder; returns both paths as text."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), np.zeros((20, 30, 3), np.uint8))

    def write_file(content, name="labels.json"):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / name), str(tmp_path / "images")

    return write_file


def box(*values) -> dict:
    return coco()["annotations"][0] | {"bbox": list(values)}


def test_a_dataset_is_registered_once_under_a_name_of_its_own(write):
    json_file, images = write(coco())
    name = dataset_name(json_file, images, otherwise="coco_2017_train")
    assert name == dataset_name(json_file, images, otherwise="coco_2017_train")
    assert dataset_name("", "", otherwise="coco_2017_train") == "coco_2017_train"
    with pytest.raises(UserError, match=r"is \[\]: give an annotation file"):
        dataset_name([], images, otherwise="coco_2017_train")
    assert name.startswith("labels-")
    (record,) = DatasetCatalog.get(name)
    assert record["annotations"][0]["category_id"] == 1  # 9 is the second id
    assert MetadataCatalog.get(name).thing_classes == ["ant", "cat"]


def test_without_a_file_the_default_holds():
    assert dataset_name("", "", otherwise="coco_2017_val") == "coco_2017_val"
    assert num_classes("", otherwise=80) == 80


def test_classes_are_counted_in_the_file(write):
    assert num_classes(write(coco())[0], otherwise=80) == 2


@pytest.mark.parametrize(
    "content, words",
    [
        ('{ "images": [', "not complete JSON"),
        ({"images": [], "categories": []}, 'has no "annotations"'),
        (coco(annotations=[]), "has no annotations"),
        (coco(images=[]), 'empty list "images"'),
        (coco(categories=[]), 'empty list "categories"'),
        (coco(annotations=[box(1, 2, 3)]), "annotations[0].bbox is [1, 2, 3]"),
        (coco(images=coco()["images"] * 2), "images[0] and images[1] have the same id 7"),
        (coco(annotations=[box(0, 0, 5, 5) | {"ignore": 1}]), 'annotations[0] is marked "ignore"'),
        (coco(images=[{"id": 7, "file_name": "b.jpg", "height": 20, "width": 30}]), "1 of 1 images"),
    ],
)
def test_what_cannot_be_used_gets_a_sentence(write, content, words):
    json_file, images = write(content)
    with pytest.raises(UserError) as refused:
        dataset_name(json_file, images, otherwise="")
    assert words in str(refused.value) and "labels.json" in str(refused.value)


def test_absent_file_and_absent_folder(write, tmp_path):
    with pytest.raises(UserError, match="absent.json"):
        dataset_name(str(tmp_path / "absent.json"), str(tmp_path), otherwise="")
    with pytest.raises(UserError, match="not a folder"):
        dataset_name(write(coco())[0], str(tmp_path / "nowhere"), otherwise="")


def test_masks_decide_what_is_trained_and_measured(write):
    with_mask = [box(0, 0, 5, 5) | {"segmentation": [[0, 0, 5, 0, 5, 5]]}]
    masks, boxes = (write(coco(annotations=a), n)[0] for a, n in ((with_mask, "m.json"), ([box(0, 0, 5, 5)], "b.json")))
    assert has_masks(masks) and not has_masks(boxes) and has_masks("")
    assert mask_features(masks, ["p3"]) == ["p3"] and mask_features(boxes, ["p3"]) is None
    assert evaluation_tasks(masks, masks) == evaluation_tasks("", "") == ("bbox", "segm")
    assert evaluation_tasks(masks, boxes) == evaluation_tasks(boxes, masks) == ("bbox",)
    some = write(coco(annotations=[*with_mask, box(0, 0, 5, 5) | {"id": 2}]), "some.json")[0]
    with pytest.raises(UserError, match='some.json: 1 of 2 annotations have no "segmentation"'):
        has_masks(some)


@pytest.mark.parametrize(
    "annotation, words",
    [
        (box(2, 3, 0, 10), "without area"),
        (box(40, 3, 5, 5), "wholly outside"),
        (box(25, 3, 10, 5), "beyond their image"),
        (box(2, 3, 10, 10) | {"image_id": 8}, "images that the file does not list"),
    ],
)
def test_faults_are_counted_and_the_first_is_named(write, annotation, words, caplog):
    annotations = [entry | {"id": place} for place, entry in enumerate([box(2, 3, 10, 10), annotation, annotation], 1)]
    faults = check_coco_file(*write(coco(annotations=annotations)))
    assert [count for fault, count in faults.items() if words in fault] == [2]
    (line,) = (line for line in caplog.messages if words in line)
    assert line.endswith("; first annotations[1]")


@pytest.mark.parametrize("keypoints", [[[3, 4, 2]], ["a"], {"x": 1}, "abc", [3, None, 2]])
def test_keypoints_that_detectron2_would_fail_on_are_left_out(write, keypoints):
    for number, (given, kept) in enumerate((([3, 4, 2], True), (keypoints, False))):
        files = write(coco(annotations=[box(2, 3, 10, 10) | {"keypoints": given}]), f"{number}.json")
        ((annotation,),) = (record["annotations"] for record in DatasetCatalog.get(dataset_name(*files, "")))
        assert ("keypoints" in annotation) == kept


def test_both_files_must_number_the_same_categories(write):
    train, _ = write(coco(), "train.json")
    same, _ = write(coco(), "same.json")
    check_same_categories(train, same)
    other, _ = write(coco(categories=[{"id": 9, "name": "cat"}, {"id": 4, "name": "bee"}]), "other.json")
    with pytest.raises(UserError, match="different categories"):
        check_same_categories(train, other)


def test_a_registered_dataset_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="knows no dataset"):
        check_registered("no_such_dataset")
    name = f"absent-{tmp_path.name}"
    register_coco_instances(name, {}, str(tmp_path / "none.json"), str(tmp_path))
    DatasetCatalog.register(f"there-{tmp_path.name}", list)
    check_registered([f"there-{tmp_path.name}"])
    for names in (name, [f"there-{tmp_path.name}", name]):
        with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
            check_registered(names)
