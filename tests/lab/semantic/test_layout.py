"""Labels in Detectron2's layout, out of ADE20K's raw ones and out of COCO files."""

import cv2
import numpy as np
import pytest
from PIL import Image

from lab.compose.write import mask_fields
from lab.semantic.layout import convert_coco, convert_raw_labels, paint_labels
from pretrain.errors import UserError


@pytest.fixture
def raw(tmp_path):
    """ADEChallengeData2016 as it is published, two files a split; gives the folder and one file's labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 151, (20, 30), dtype=np.uint8)
    for split in ("training", "validation"):
        (tmp_path / "annotations" / split).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(tmp_path / "annotations" / split / f"ADE_{i}.png"), labels)
    return tmp_path, labels


def read(path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "L"
        return np.asarray(picture)


def test_raw_labels_move_down_by_one_and_other_is_not_counted(raw):
    root, labels = raw
    assert convert_raw_labels(root) == {"training": 2, "validation": 2}
    converted = read(root / "annotations_detectron2" / "validation" / "ADE_1.png")
    assert (converted[labels == 0] == 255).all()
    np.testing.assert_array_equal(converted[labels > 0], labels[labels > 0] - 1)


def test_a_second_conversion_and_converted_labels_are_refused(raw):
    root, _ = raw
    convert_raw_labels(root)
    with pytest.raises(UserError, match="annotations_detectron2 exists"):
        convert_raw_labels(root)
    (root / "annotations_detectron2").rename(root / "elsewhere")
    cv2.imwrite(str(root / "annotations" / "training" / "ADE_1.png"), np.full((4, 4), 255, np.uint8))
    with pytest.raises(UserError, match=r"ADE_1\.png .*converted already"):
        convert_raw_labels(root)
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "elsewhere"]  # nothing half done is left


def test_nothing_to_convert(tmp_path):
    with pytest.raises(UserError, match=r"no \.png in .*annotations"):
        convert_raw_labels(tmp_path)


def mask(rows: slice, columns: slice) -> np.ndarray:
    inside = np.zeros((10, 12), bool)
    inside[rows, columns] = True
    return inside


def objects(*regions) -> list[dict]:
    return [mask_fields(mask(*part)) | {"category_id": category, "image_id": 7} for category, *part in regions]


def test_smaller_objects_lie_on_larger_ones():
    small, large = (4, slice(2, 5), slice(3, 6)), (9, slice(0, 8), slice(0, 8))
    for order in ((small, large), (large, small)):
        labels = paint_labels(objects(*order), {4: 1, 9: 2}, 10, 12)
        assert labels.dtype == np.uint8 and (labels[2:5, 3:6] == 1).all() and (labels[8:] == 0).all()
        assert (labels == 2).sum() == 64 - 9


@pytest.fixture
def coco(tmp_path):
    """A COCO file's content and its image folder; category ids do not count from one."""
    content = {
        "images": [{"id": 7, "file_name": "deep/a.jpg", "height": 10, "width": 12}],
        "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "ant"}],
        "annotations": objects((9, slice(0, 3), slice(0, 3)), (4, slice(5, 9), slice(5, 9))),
    }
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "pictures" / "deep" / "a.jpg"), np.zeros((10, 12, 3), np.uint8))
    return content, tmp_path / "pictures"


def test_a_coco_file_becomes_the_layout(coco, tmp_path):
    assert convert_coco({"training": coco, "validation": coco}, tmp_path / "out") == {"training": 1, "validation": 1}
    labels = read(tmp_path / "out" / "annotations_detectron2" / "training" / "deep_a.png")
    assert (labels[:3, :3] == 2).all() and (labels[5:9, 5:9] == 1).all() and (labels > 0).sum() == 9 + 16
    copied = tmp_path / "out" / "images" / "validation" / "deep_a.jpg"
    assert copied.read_bytes() == (coco[1] / "deep" / "a.jpg").read_bytes()
    assert (tmp_path / "out" / "classes.txt").read_text().split() == ["background", "ant", "cat"]


def test_files_whose_flat_names_are_equal_stay_apart(coco, tmp_path):
    content, folder = coco
    names = ["deep/a.jpg", "deep_a.jpg", "deep/a.jpeg"]
    for number, name in enumerate(names[1:], 1):
        cv2.imwrite(str(folder / name), np.full((10, 12, 3), 90 * number, np.uint8))
    content["images"] = [content["images"][0] | {"id": 7 + n, "file_name": name} for n, name in enumerate(names)]
    assert convert_coco({"training": coco}, tmp_path / "out") == {"training": 3}
    images, labels = (
        sorted((tmp_path / "out" / p / "training").iterdir()) for p in ("images", "annotations_detectron2")
    )
    assert {path.read_bytes() for path in images} == {(folder / name).read_bytes() for name in names}
    assert [path.stem for path in images] == [path.stem for path in labels]


def test_what_cannot_be_converted(coco, tmp_path):
    content, folder = coco
    other = content | {"categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "ant"}]}
    with pytest.raises(UserError, match="different categories"):
        convert_coco({"training": coco, "validation": (other, folder)}, tmp_path / "out")
    with pytest.raises(UserError, match=r"there is no \.jpg .*a\.jpg"):
        convert_coco({"training": (content, tmp_path / "nowhere")}, tmp_path / "out")
    boxes = [annotation | {"id": 5, "segmentation": []} for annotation in content["annotations"]]
    with pytest.raises(UserError, match="annotation 5 of training has no mask, and would be taught as background"):
        convert_coco({"training": (content | {"annotations": boxes}, folder)}, tmp_path / "out")
    for names, words in (
        (map(str, range(255)), "255 categories and the background do not fit"),
        (["a", " a\n"], "need different names"),
        (["background", "a"], "need different names"),
        ([" ", "a"], "need different names"),
    ):
        categories = [{"id": n, "name": name} for n, name in enumerate(names)]
        with pytest.raises(UserError, match=words):
            convert_coco({"training": (content | {"categories": categories}, folder)}, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_name_in_two_lines_is_one_name(coco, tmp_path):
    content, folder = coco
    content["categories"][1]["name"] = "red\nant"
    convert_coco({"training": coco}, tmp_path / "out")
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == ["background", "red ant", "cat"]


def test_a_link_to_an_empty_folder_is_written_to(coco, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    convert_coco({"training": coco}, tmp_path / "out")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "classes.txt").is_file()
