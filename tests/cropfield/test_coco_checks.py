"""Whole COCO files: what is accepted gives the truth itself an AP of 100, what is not is refused by its place."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as pycocotools

from cropfield.coco_checks import checked_coco
from cropfield.datasets import check_can_be_evaluated, dataset_name, read_coco_file
from cropfield.evaluation import HotCOCOEvaluator
from pretrain.errors import UserError

BOX, HEIGHT, WIDTHS = [8, 20, 30, 40], 128, (96, 128, 96, 128)


def runs(width: int, compressed: bool) -> dict:
    mask = np.zeros((HEIGHT, width), np.uint8, order="F")
    mask[20:60, 8:38] = 1
    if compressed:
        return {"size": [HEIGHT, width], "counts": pycocotools.encode(mask)["counts"].decode()}
    ends = np.flatnonzero(np.diff(mask.T.ravel(), prepend=0)).tolist() + [mask.size]
    return {"size": [HEIGHT, width], "counts": np.diff(ends, prepend=0).tolist()}


def content() -> dict:
    """Four images with one object each, of two categories by turns."""
    annotation = {"bbox": BOX, "area": 1200, "iscrowd": 0, "segmentation": [[8, 20, 38, 20, 38, 60, 8, 60]]}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": w} for i, w in enumerate(WIDTHS, 1)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [annotation | {"id": i, "image_id": i, "category_id": 2 - i % 2} for i in (1, 2, 3, 4)],
    }


def every(part: str, key: str, change):
    """A change of one key in all entries of one part."""

    def apply(coco: dict) -> None:
        for entry in coco[part]:
            entry[key] = change(entry[key])

    return apply


def both(*changes):
    return lambda coco: [change(coco) for change in changes]


def annotations(**values):
    return lambda coco: [entry.update(copy.deepcopy(values)) for entry in coco["annotations"]]


def without(*keys: str):
    return lambda coco: [entry.pop(key) for entry in coco["annotations"] for key in keys]


def first(**values):
    return lambda coco: coco["annotations"][0].update(copy.deepcopy(values))


def masks(compressed: bool):
    def apply(coco: dict) -> None:
        for entry, width in zip(coco["annotations"], WIDTHS, strict=True):
            entry["segmentation"] = runs(width, compressed)

    return apply


def extra(**values):
    """One more annotation, which no detector could find."""
    return lambda coco: coco["annotations"].append(coco["annotations"][0] | {"id": 9} | values)


ACCEPTED = {  # change, and what is said of it
    "as it is": (lambda coco: None, ""),
    "ids from 0": (every("annotations", "id", lambda i: i - 1), "numbered 1, 2, 3"),
    "negative ids": (every("annotations", "id", lambda i: -i), "numbered 1, 2, 3"),
    "one id for all": (every("annotations", "id", lambda i: 5), "numbered 1, 2, 3"),
    "words as ids": (every("annotations", "id", lambda i: f"box-{i}"), "numbered 1, 2, 3"),
    "no ids": (lambda coco: [entry.pop("id") for entry in coco["annotations"]], "numbered 1, 2, 3"),
    "null as id": (first(id=None), "numbered 1, 2, 3"),
    "image ids as text in one place": (every("images", "id", str), "taken as numbers"),
    "image ids as text in the other": (every("annotations", "image_id", str), "taken as numbers"),
    "image ids with a decimal point": (every("annotations", "image_id", float), "taken as numbers"),
    "image ids of words": (
        both(every("images", "id", lambda i: f"x{i}"), every("annotations", "image_id", lambda i: f"x{i}")),
        "ids of images that are not whole numbers throughout (numbered 1 to 4",
    ),
    "image ids of 128 bits": (
        both(every("images", "id", lambda i: i << 100), every("annotations", "image_id", lambda i: i << 100)),
        "ids of images",
    ),
    "category ids as text": (every("annotations", "category_id", str), "taken as numbers"),
    "category ids of words, in another order": (
        both(every("categories", "id", " za".__getitem__), every("annotations", "category_id", " za".__getitem__)),
        "ids of categories",
    ),
    "category ids from 0": (
        both(every("categories", "id", lambda i: i - 1), every("annotations", "category_id", lambda i: i - 1)),
        "",
    ),
    "sizes with a decimal point": (every("images", "width", float), "decimal point"),
    "iscrowd as false": (annotations(iscrowd=False), ""),
    "ignore null": (annotations(ignore=None), '"ignore" is null'),
    "no iscrowd": (without("iscrowd"), '4 annotations without "iscrowd" (taken as single objects)'),
    "run lengths": (masks(compressed=False), ""),
    "compressed run lengths": (masks(compressed=True), ""),
    "boxes of zeros beside polygons": (annotations(bbox=[0, 0, 0, 0]), "taken from the masks"),
    "boxes of zeros beside run lengths": (both(masks(False), annotations(bbox=[0, 0, 0, 0])), "taken from the masks"),
    "boxes of zeros beside compressed ones": (both(masks(True), annotations(bbox=[0, 0, 0, 0])), "from the masks"),
    "a short ring beside a whole one": (first(segmentation=[[1, 2, 3, 4], [8, 20, 38, 20, 38, 60, 8, 60]]), "rings"),
    "a box without area": (extra(bbox=[5, 5, 0, 3], segmentation=[[5, 5, 5, 6, 5, 8]], area=0), "without area"),
    "a mask without a pixel": (extra(segmentation={"size": [HEIGHT, 96], "counts": [HEIGHT * 96]}), "no pixel"),
    "a polygon of one point": (extra(segmentation=[[9, 9] * 3]), "1 annotations whose masks have no pixel (removed)"),
    "a polygon on a line": (extra(segmentation=[[9, 9, 20, 20, 31, 31, 42, 42]]), "no pixel"),
    "a polygon beside the image": (extra(segmentation=[[-90, -90, -20, -90, -20, -20]]), "no pixel"),
    "a polygon below the image": (extra(segmentation=[[8, 140, 40, 140, 40, 180, 8, 180]]), "no pixel"),
    "a crowd": (extra(bbox=[60, 5, 20, 20], area=400, iscrowd=1), "1 objects marked iscrowd"),
    "an image that is not listed": (extra(image_id=99, bbox=[1, 1, 2, 2]), "does not list"),
}  # fmt: skip


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a changed file, with its images -> its path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i, width in enumerate(WIDTHS, 1):
        Image.new("RGB", (width, HEIGHT)).save(tmp_path / f"{i}.png")

    def write_file(change, text=json.dumps):
        coco = content()
        change(coco)
        data = text(coco)
        (tmp_path / "labels.json").write_bytes(data if isinstance(data, bytes) else data.encode())
        return str(tmp_path / "labels.json")

    return write_file


def ap_of_the_truth(evaluator, name: str) -> dict[str, float]:
    """AP by task where each image's object, which `content` knows, is what is predicted."""
    order = MetadataCatalog.get(name).thing_classes
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        number = int(record["file_name"].split("/")[-1].split(".")[0])
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes(torch.tensor([[8.0, 20, 38, 60]]))
        found.scores = torch.ones(1)
        found.pred_classes = torch.tensor([order.index("ab"[1 - number % 2])])
        found.pred_masks = torch.zeros(1, record["height"], record["width"], dtype=torch.bool)
        found.pred_masks[0, 20:60, 8:38] = True
        evaluator.process([record], [{"instances": found}])
    with contextlib.redirect_stdout(io.StringIO()):
        return {task: float(figures["AP"]) for task, figures in evaluator.evaluate().items()}


def evaluate_truth(json_file: str) -> None:
    folder = json_file.rsplit("/", 1)[0]
    name = dataset_name(json_file, folder, otherwise="")
    check_can_be_evaluated(json_file)
    for kind, options in ((COCOEvaluator, {"use_fast_impl": False}), (HotCOCOEvaluator, {})):
        evaluator = kind(name, tasks=("bbox", "segm"), output_dir=folder, **options)
        assert ap_of_the_truth(evaluator, name) == {"bbox": pytest.approx(100), "segm": pytest.approx(100)}, kind


@pytest.mark.parametrize("variant", ACCEPTED)
def test_the_truth_itself_has_an_ap_of_100(write, variant, caplog):
    change, said = ACCEPTED[variant]
    evaluate_truth(write(change))
    assert said in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_in_other_encodings_too(write, encoding):
    evaluate_truth(write(lambda coco: None, text=lambda coco: json.dumps(coco).encode(encoding)))


def test_a_file_that_needs_no_mending_is_used_itself(write):
    json_file = write(lambda coco: None)
    name = dataset_name(json_file, json_file.rsplit("/", 1)[0], otherwise="")
    assert MetadataCatalog.get(name).json_file == json_file


def test_without_a_cache_the_mended_copy_lies_elsewhere(write, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "1.png"))  # a file: no folder can be made there
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    json_file = write(every("annotations", "id", lambda i: i - 1))
    copy = MetadataCatalog.get(dataset_name(json_file, str(tmp_path), otherwise="")).json_file
    assert [entry["id"] for entry in json.loads(open(copy).read())["annotations"]] == [1, 2, 3, 4]


REFUSED = {
    "one word among numbers": (first(id="abc"), 'annotations[0].id is "abc"'),
    "a word among image numbers": (lambda coco: coco["images"][1].update(id="a"), 'images[1].id is "a"'),
    "half ids": (every("annotations", "id", lambda i: i + 0.5), "annotations[0].id is 1.5; give all of them whole"),
    "half an image id": (lambda coco: coco["images"][1].update(id=1.5), "images[1].id is 1.5"),
    "an image id twice": (lambda coco: coco["images"][1].update(id="1"), "images[0] and images[1] have the same id 1"),
    "a category id twice": (lambda coco: coco["categories"][1].update(id=1), "categories[0] and categories[1] have"),
    "an unknown category": (first(category_id=3), "annotations[0].category_id is 3"),
    "an unknown word": (first(category_id="c"), 'annotations[0].category_id is "c"'),
    "crowds only": (annotations(iscrowd=1), "no object to learn"),
    "images that are not listed": (every("annotations", "image_id", lambda i: i + 50), "no object to learn"),
    "half a crowd": (first(iscrowd=0.5), "annotations[0].iscrowd is 0.5"),
    "half a pixel": (lambda coco: coco["images"][0].update(width=95.5), "images[0].width is 95.5"),
    "boxes as shares": (annotations(bbox=[0.1, 0.2, 0.3, 0.4]), "annotations[0].bbox is [0.1, 0.2, 0.3, 0.4], in one"),
    "one box as shares": (first(bbox=[0.1, 0.2, 0.3, 0.4]), "looks like shares of 1"),
    "polygons as shares": (first(segmentation=[[0.1, 0.2, 0.3, 0.2, 0.3, 0.4]]), "looks like shares of 1"),
    "4 numbers": (first(segmentation=[[8, 20, 38, 60]]), "segmentation[0] has 4 numbers"),
    "5 numbers": (first(segmentation=[[8, 20, 38, 60, 8]]), "segmentation[0] has 5 numbers"),
    "7 numbers": (first(segmentation=[[8, 20, 38, 20, 38, 60, 8]]), "segmentation[0] has 7 numbers"),
    "an odd ring beside a whole one": (first(segmentation=[[8, 20, 38, 20, 38, 60], [1]]), "segmentation[1] has 1 num"),
    "an empty ring": (first(segmentation=[[]]), "segmentation[0] has 0 numbers"),
    "a list of pairs": (first(segmentation=[[8, 20], [38, 20], [38, 60]]), "points in pairs"),
    "a polygon far away": (first(segmentation=[[8, 20, 38, 20, 38, 1e5]]), "reaches to 100000 in an image of 96 x 128"),
    "and on the other side": (first(segmentation=[[8, 20, 38, 20, 38, -2e3]]), "reaches to -2000"),
    "runs of a swapped size": (first(segmentation=runs(96, True) | {"size": [96, 128]}), "height are swapped"),
    "runs of another size": (first(segmentation={"size": [10**9, 10**9], "counts": [10**18]}), "its image is 96 wide"),
    "runs too short": (first(segmentation={"size": [128, 96], "counts": [10, 20, 30]}), "cover 60 pixels"),
    "runs too long": (first(segmentation={"size": [128, 96], "counts": [12288, 1]}), "cover 12,289 pixels"),
    "no runs": (first(segmentation={"size": [128, 96], "counts": []}), "cover 0 pixels"),
    "compressed runs too long": (first(segmentation=runs(128, True) | {"size": [128, 96]}), "cover 16,384 pixels"),
    "compressed runs of 1e9 pixels": (first(segmentation={"size": [128, 96], "counts": "P`Z_Pm0"}), "cover"),
    "damaged compressed runs": (first(segmentation={"size": [128, 96], "counts": "1o"}), "segmentation.counts, "),
}  # fmt: skip


@pytest.mark.parametrize("variant", REFUSED)
def test_what_cannot_be_mended_is_refused_by_its_place(write, variant):
    change, said = REFUSED[variant]
    with pytest.raises(UserError) as refused:
        checked_coco(write(change))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "values", [{"area": None}, {"area": 0}, {"area": -1200}, {"area": 0, "segmentation": runs(96, True)}]
)
def test_areas_that_would_make_objects_small_are_refused_where_ap_is_measured(write, values):
    json_file = write(first(**values))
    with pytest.raises(UserError, match=r"annotations\[0\]"):
        check_can_be_evaluated(json_file)
    assert read_coco_file(json_file)["annotations"][0]["image_id"] == 1  # trained on all the same


def test_a_line_may_have_no_area(write):
    json_file = write(first(area=0, segmentation=[[8, 20, 38, 60, 23, 40]]))
    check_can_be_evaluated(json_file)


def test_many_compressed_masks_are_checked_in_batches(write, monkeypatch):
    monkeypatch.setattr("cropfield.mask_checks.BATCH", 3)
    checked_coco(write(masks(compressed=True)))

    def damage_the_last(coco):
        masks(compressed=True)(coco)
        coco["annotations"][3]["segmentation"]["counts"] = "1o"

    with pytest.raises(UserError, match=r"annotations\[3\]"):
        checked_coco(write(damage_the_last))


def test_boxes_that_are_corners_are_asked_about(write, caplog):
    with pytest.raises(UserError, match=r"annotations\[0\].bbox reaches beyond its image, as 4 of 4 .* convert them"):
        checked_coco(write(annotations(bbox=[60, 100, 90, 120])))
    json_file = write(annotations(bbox=[60, 100, 50, 120]))  # not with x1 < x0
    dataset_name(json_file, json_file.rsplit("/", 1)[0], otherwise="")
    assert "4 boxes that reach beyond their image (clipped; are they the corners x0, y0, x1, y1?)" in caplog.text


def test_a_file_under_two_ids_is_told(write, caplog):
    json_file = write(lambda coco: coco["images"].append(coco["images"][0] | {"id": 1001}))
    dataset_name(json_file, json_file.rsplit("/", 1)[0], otherwise="")
    assert "1 images whose file another image has as well" in caplog.text


def test_an_absent_area_is_refused_where_ap_is_measured_only(write):
    json_file = write(without("area"))
    read_coco_file(json_file)
    with pytest.raises(UserError, match=r'annotations\[0\] has no "area"'):
        check_can_be_evaluated(json_file)


def test_categories_of_one_name_are_told_apart(write, caplog):
    names = ["a (id 3)", "a", "a"]

    def change(coco):
        coco["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]

    json_file = write(change)
    name = dataset_name(json_file, json_file.rsplit("/", 1)[0], otherwise="")
    DatasetCatalog.get(name)  # which takes the names from the repaired file
    assert MetadataCatalog.get(name).thing_classes == ["a (id 3) (id 1)", "a (id 2)", "a (id 3) (id 3)"]
    assert "4 categories with the name of another one (told apart by their ids)" in caplog.text
