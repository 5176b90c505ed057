"""COCO files read with types: each fault is named by its path."""

import gzip
import json

import pytest

from pretrain.data.coco import read_coco, read_image_names
from pretrain.errors import UserError


def content() -> dict:
    annotation = {"id": 1, "image_id": 7, "category_id": 9, "bbox": [2, 3, 10, 10], "iscrowd": 0, "area": 100}
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 20, "width": 30, "license": 4}],
        "categories": [{"id": 9, "name": "cat"}],
        "annotations": [
            annotation,
            annotation | {"id": 2, "bbox": [2, 3, 10, 10], "segmentation": [[2, 3, 12, 3, 12, 13]]},
        ],
    }


def write(path, what) -> str:
    path = path / "labels.json"
    path.write_bytes(what if isinstance(what, bytes) else json.dumps(what).encode())
    return str(path)


def test_what_detection_needs_is_kept(tmp_path):
    read, unusual = read_coco(write(tmp_path, content() | {"info": {"year": 2017}}))
    assert unusual is None and read.images[0].file_name == "a.jpg" and read.categories[0].name == "cat"
    assert read.annotations[1].bbox == (2, 3, 10, 10) and read.annotations[1].segmentation == [[2, 3, 12, 3, 12, 13]]


RUNS = {"size": [20, 30], "counts": [600]}
FAULTS = [  # where, value, what is said of it
    ("images[0].id", None, "null"),
    ("images[0].id", True, "true"),
    ("images[0].file_name", 5, "5, a number (put it in quotes)"),
    ("images[0].file_name", "", '""'),
    ("images[0].width", None, "null"),
    ("images[0].height", "20", '"20", a number written as text'),
    ("images[0].height", 0, "0"),
    ("categories[0].name", 5, "5, a number"),
    ("categories[0].id", [9], "[9]"),
    ("annotations[0].image_id", {}, "{}"),
    ("annotations[1].bbox", [1, 2, 3], "[1, 2, 3]"),
    ("annotations[1].bbox", None, "null"),
    ("annotations[1].bbox[0]", "2", '"2", a number written as text'),
    ("annotations[1].bbox[2]", -1, "-1, a negative size"),
    ("annotations[1].bbox[3]", float("nan"), "NaN"),
    ("annotations[1].bbox[1]", 1e9, "1000000000.0, as large as no image is"),
    ("annotations[0].iscrowd", "0", '"0", a number written as text'),
    ("annotations[0].iscrowd", None, "null"),
    ("annotations[0].iscrowd", 2, "2"),
    ("annotations[0].area", "100", '"100", a number written as text'),
    ("annotations[1].segmentation", 5, "5"),
    ("annotations[1].segmentation[0]", 5, "5, a polygon without a list around it"),
    ("annotations[1].segmentation[0]", RUNS, '{"size": [20, 30], "counts": [600]}, run lengths in a list'),
    ("annotations[1].segmentation[0][0]", [2, 3], "[2, 3], points in pairs"),
    ("annotations[1].segmentation[0][4]", 1e9, "1000000000.0"),
    ("annotations[1].segmentation[0][4]", float("inf"), "Infinity"),
    ("annotations[1].segmentation[0][4]", "x", '"x"'),
    ("images[0]", None, "null"),
    ("annotations[1]", [], "[]"),
    ("annotations", {}, "{}"),
]


@pytest.mark.parametrize("where, value, said", FAULTS)
def test_a_fault_is_named_by_its_path(tmp_path, where, value, said):
    broken, steps = content(), where.replace("]", "").replace("[", ".").split(".")
    place = broken
    for step in steps[:-1]:
        place = place[int(step) if step.isdecimal() else step]
    place[int(steps[-1]) if steps[-1].isdecimal() else steps[-1]] = value
    with pytest.raises(UserError) as refused:
        read_coco(write(tmp_path, broken))
    assert f"labels.json: {where} is {said}" in str(refused.value) and "; write " in str(refused.value)


def test_a_name_that_is_there_twice_is_told(tmp_path):
    """The two readers keep another of the two."""
    (tmp_path / "labels.json").write_text('{"images": [5], "images": [], "categories": [], "annotations": []}')
    with pytest.raises(UserError, match=r"images\[0\] is not what belongs there, and images may be there twice"):
        read_coco(tmp_path / "labels.json")


@pytest.mark.parametrize(
    "runs, said",
    [
        ({"size": [20, 30]}, 'segmentation has no "counts"'),
        ({"size": [20], "counts": []}, "segmentation.size is [20]"),
        ({"size": ["20", 30], "counts": []}, 'segmentation.size[0] is "20", a number written as text'),
        ({"size": [20, 30], "counts": [1, -2]}, "segmentation.counts[1] is -2"),
        ({"size": [20, 30], "counts": 600}, "segmentation.counts is 600"),
    ],
)
def test_run_lengths_are_typed(tmp_path, runs, said):
    broken = content()
    broken["annotations"][0]["segmentation"] = runs
    with pytest.raises(UserError) as refused:
        read_coco(write(tmp_path, broken))
    assert f"annotations[0].{said}" in str(refused.value)


@pytest.mark.parametrize("key", ["images", "categories", "annotations"])
def test_a_part_that_is_absent(tmp_path, key):
    broken = content()
    del broken[key]
    with pytest.raises(UserError, match=f'has no "{key}"'):
        read_coco(write(tmp_path, broken))


TEXT = json.dumps(content())


@pytest.mark.parametrize(
    "data, said",
    [
        (TEXT.encode("utf-8-sig"), "byte-order mark"),
        (TEXT.encode("utf-16"), "UTF-16"),
        (TEXT.encode("utf-32-le"), "UTF-32-LE"),
        (b'{"info": NaN, ' + TEXT[1:].encode(), "NaN"),
    ],
)
def test_text_that_other_readers_stumble_over_is_read_and_said(tmp_path, data, said):
    read, unusual = read_coco(write(tmp_path, data))
    assert said in unusual and read == read_coco(write(tmp_path, content()))[0]


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "not complete JSON"),
        (TEXT[:-9].encode(), "not complete JSON"),
        (b"[" * 100_000, "the content|nested too deeply"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b", " + TEXT[1:].encode(), "nested too deeply"),
        (TEXT.replace("cat", "\xe9").encode("latin-1"), "not text in UTF-8"),
        (b"\xff\xd8\xff\xe0", "is a JPEG image"),
        (gzip.compress(TEXT.encode()), "is packed by gzip"),
        (b"{}\n{}\n", "goes on after its first object, in line 2"),
    ],
)
@pytest.mark.parametrize("reader", [read_coco, read_image_names])
def test_what_is_no_json_is_refused(tmp_path, reader, data, said):
    with pytest.raises(UserError, match=said):
        reader(write(tmp_path, data))


def test_pretraining_passes_over_annotations(tmp_path):
    assert read_image_names(write(tmp_path, content() | {"annotations": "whatever", "categories": 5})) == ["a.jpg"]


@pytest.mark.parametrize("images", ['[{"\\ud800": 1}]', '["\\ud800"]'], ids=["in a key", "for an image"])
def test_half_a_character_is_named(tmp_path, images):
    words = r'labels.json holds a lone surrogate, "\\ud800", in a key or in place of an object'
    with pytest.raises(UserError, match=words):
        read_coco(write(tmp_path, f'{{"images": {images}}}'.encode()))
