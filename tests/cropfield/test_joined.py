"""Several COCO files as one dataset."""

import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from cropfield.datasets import (
    check_can_be_evaluated,
    check_same_categories,
    class_names,
    dataset_name,
    has_masks,
    num_classes,
    read_coco_file,
)
from pretrain.errors import UserError

CAT, ANT = {"id": 9, "name": "cat"}, {"id": 4, "name": "ant"}
POLYGON = [[2, 3, 12, 3, 12, 13, 2, 13]]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(NAME, category of its object, ...) -> NAME.json and the folder NAME with the one image a.png."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write_files(name: str, category: int, categories=(CAT, ANT), **changes):
        (tmp_path / name).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name / "a.png"), np.zeros((20, 30, 3), np.uint8))
        box = {"id": 1, "image_id": 7, "category_id": category, "bbox": [2, 3, 10, 10], "iscrowd": 0, "area": 100}
        content = {
            "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 30}],
            "categories": list(categories),
            "annotations": [box | changes],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return str(tmp_path / f"{name}.json"), str(tmp_path / name)

    return write_files


def classes_of(name: str) -> list[tuple[str, str]]:
    known = MetadataCatalog.get(name).thing_classes
    return [(r["file_name"], known[r["annotations"][0]["category_id"]]) for r in DatasetCatalog.get(name)]


def test_several_files_are_one_dataset_with_classes_by_their_names(write, tmp_path):
    (a, a_images), (b, b_images) = write("a", 9), write("b", 1, [{"id": 1, "name": "cat"}, {"id": 2, "name": "ant"}])
    name = dataset_name([a, b], [a_images, b_images], "")
    assert name == dataset_name([a, b], [a_images, b_images], "") and name.startswith("a-and-1-more-")
    assert classes_of(name) == [(f"{a_images}/a.png", "cat"), (f"{b_images}/a.png", "cat")]
    assert len({record["image_id"] for record in DatasetCatalog.get(name)}) == 2
    assert num_classes([a, b], 80) == 2 and class_names([a, b]) == ["ant", "cat"]
    check_same_categories([a, b], a), check_can_be_evaluated([a, b])
    assert [c["name"] for c in read_coco_file([a, b])["categories"]] == ["cat", "ant"]
    assert classes_of(dataset_name(str(tmp_path / "[ab].json"), [a_images, b_images], "")) == classes_of(name)
    assert classes_of(dataset_name([a], a_images, "")) == classes_of(dataset_name(a, a_images, ""))


def test_files_are_paired_with_the_folders_that_are_called_like_them(write, tmp_path):
    """`site-2.json` comes before `site.json` in the alphabet, and the folder `site` before `site-2`."""
    (tmp_path / "all").mkdir()
    for number, name in enumerate(("site", "site-2", "site b"), 1):
        write(f"all/{name}", 9)
        (tmp_path / f"all/{name}").rename(tmp_path / name)
        content = json.loads((tmp_path / f"all/{name}.json").read_text())
        content["annotations"][0]["bbox"][0] = number
        (tmp_path / f"all/{name}.json").write_text(json.dumps(content))
    name = dataset_name(str(tmp_path / "all/*.json"), str(tmp_path / "site*"), "")
    found = {
        record["file_name"].split("/")[-2]: record["annotations"][0]["bbox"][0] for record in DatasetCatalog.get(name)
    }
    assert found == {"site": 1, "site-2": 2, "site b": 3}
    crossed = [str(tmp_path / "site-2"), str(tmp_path / "site")]
    with pytest.raises(
        UserError, match="site.json is paired with the images in .*site-2, and there is also a folder site"
    ):
        dataset_name([str(tmp_path / f"all/{name}.json") for name in ("site", "site-2")], crossed, "")


def test_masks_of_several_files(write):
    (a, _), (b, _), (c, _) = (
        write("a", 9, segmentation=POLYGON), write("b", 9, segmentation=POLYGON), write("c", 9),
    )  # fmt: skip
    assert has_masks([a, b]) and not has_masks([c])
    with pytest.raises(UserError, match="1 of 2 annotations have no"):
        has_masks([a, c])


def test_what_cannot_be_joined(write, tmp_path):
    (a, a_images), (b, b_images) = write("a", 9), write("b", 9, [CAT, {"id": 2, "name": "bee"}])
    with pytest.raises(UserError, match=r"b.json and .*a.json .*different categories \(ant, bee in"):
        dataset_name([a, b], [a_images, b_images], "")
    with pytest.raises(UserError, match="a/a.png is in .* list it in one of them"):
        (tmp_path / "c.json").write_text((tmp_path / "a.json").read_text())
        dataset_name([a, str(tmp_path / "c.json")], a_images, "")
    with pytest.raises(UserError, match="given twice"):
        dataset_name([a, a], a_images, "")
    with pytest.raises(UserError, match="2 annotation files and 3 folders"):
        dataset_name([a, b], [a_images] * 3, "")
    with pytest.raises(UserError, match="absent.json cannot be read"):
        dataset_name([a, str(tmp_path / "absent.json")], a_images, "")
    with pytest.raises(UserError, match="no file matches .*x"):
        dataset_name(str(tmp_path / "x*.json"), a_images, "")
    twice = [[{"id": 9, "name": "cat"}, {"id": other, "name": "cat"}] for other in (4, 5)]
    (d, d_images), (e, e_images) = write("d", 9, twice[0]), write("e", 9, twice[1])
    with pytest.raises(UserError, match=r"different categories \(cat \(id 4\), cat \(id 5\) in"):
        dataset_name([d, e], [d_images, e_images], "")


def test_what_cannot_be_measured_is_found_in_any_of_them(write):
    (a, _), (b, _) = write("a", 9), write("b", 9, area=None)
    with pytest.raises(UserError, match='b.json: .*no "area"'):
        check_can_be_evaluated([a, b])
