"""Folders in ADE20K's layout: names, classes, and a sentence for each fault."""

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from cropfield import CropFieldViT, mapper
from lab.semantic.datasets import (
    check_layout,
    class_names,
    has_class_token,
    num_semantic_classes,
    read_labels,
    semantic_dataset,
)
from pretrain.data.decode import BrokenImage
from pretrain.errors import UserError
from pretrain.models.weights import write_backbone


@pytest.fixture
def layout(tmp_path):
    """A folder of three images a split, with classes.txt of two names."""
    for split in ("training", "validation"):
        for part in ("images", "annotations_detectron2"):
            (tmp_path / part / split).mkdir(parents=True)
        for i in range(3):
            labels = np.full((8, 12), i % 2, np.uint8)
            labels[0] = 255
            cv2.imwrite(str(tmp_path / "images" / split / f"{i}.jpg"), np.full((8, 12, 3), 90, np.uint8))
            cv2.imwrite(str(tmp_path / "annotations_detectron2" / split / f"{i}.png"), labels)
    (tmp_path / "classes.txt").write_text("sky\n\ngrass \n")
    return tmp_path


def folders(root, split="training"):
    return root / "images" / split, root / "annotations_detectron2" / split


def test_a_folder_becomes_a_dataset(layout):
    name = semantic_dataset(str(layout), str(layout / "classes.txt"), "val")
    assert name == semantic_dataset(f"{layout}/images/..", str(layout / "classes.txt"), "val")
    facts, entries = MetadataCatalog.get(name), DatasetCatalog.get(name)
    assert facts.stuff_classes == ["sky", "grass"] and facts.ignore_label == 255
    assert [entry["file_name"].endswith(f"validation/{i}.jpg") for i, entry in enumerate(entries)] == [True] * 3
    labels = read_labels(entries[1]["sem_seg_file_name"], dtype=int)
    assert labels.dtype == int and labels.max() == 255 and labels[1:].max() == 1
    labels[0] = 7  # the evaluator writes into it


def test_training_and_evaluation_read_the_same_labels(tmp_path):
    """Those of a palette are its indices; of 16 bits neither takes a part."""
    values, file = np.array([[0, 1], [2, 255]], np.uint8), str(tmp_path / "labels.png")
    picture = Image.fromarray(values, "P")
    picture.putpalette([5, 50, 250] * 256)
    picture.save(file)
    for read in (mapper.read_labels, read_labels):
        assert np.array_equal(read(file), values)
    Image.fromarray(values.astype(np.uint16) + 256).save(file)
    with pytest.raises(BrokenImage, match="labels of mode I;16"):
        mapper.read_labels(file)
    with pytest.raises(UserError, match="labels of mode I;16, not L or P; get it again"):
        read_labels(file)


def test_both_splits_and_other_classes_are_other_datasets(layout):
    (layout / "three.txt").write_text("a\nb\nc")
    names = {
        semantic_dataset(str(layout), str(layout / classes), split)
        for classes in ("classes.txt", "three.txt")
        for split in ("train", "val")
    }
    assert len(names) == 4


def test_ade20k_has_150_classes():
    assert num_semantic_classes("") == 150 and class_names("")[:2] == ["wall", "building"]


def test_the_absent_ade20k_gets_a_sentence():
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        semantic_dataset("", "", "train")


def test_raw_labels_alone_are_named(layout):
    (layout / "annotations_detectron2").rename(layout / "annotations")
    with pytest.raises(UserError, match=f"projects/Lab/tools/prepare_ade20k.py {layout}"):
        check_layout(*folders(layout), 2)


@pytest.mark.parametrize("absent, words", [("1.jpg", "1.png no image"), ("1.png", "1.jpg has no labels")])
def test_files_without_partner(layout, absent, words):
    images, labels = folders(layout)
    (images if absent.endswith("jpg") else labels).joinpath(absent).unlink()
    with pytest.raises(UserError, match=f"1 files have no partner.*{words}"):
        check_layout(images, labels, 2)


def test_an_empty_folder(layout):
    images, labels = folders(layout)
    for file in images.iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"no \.jpg"):
        check_layout(images, labels, 2)


def test_labels_that_cannot_be_trained_on(layout):
    images, labels = folders(layout)
    with pytest.raises(UserError, match=r"1\.png has the label 1, and there are 1 classes"):
        check_layout(images, labels, 1)
    palette = Image.open(labels / "2.png").convert("P")
    palette.save(labels / "2.png")
    with pytest.raises(UserError, match=r"2\.png is of mode P"):
        check_layout(images, labels, 2)
    cv2.imwrite(str(labels / "0.png"), np.zeros((8, 13), np.uint8))
    with pytest.raises(UserError, match=r"\(13, 8\).*its image \(12, 8\)"):
        check_layout(images, labels, 2)
    (labels / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read .*0\.png"):
        check_layout(images, labels, 2)


def test_sizes_are_compared_upright(layout):
    """Detectron2 turns an image as its EXIF says; the labels are those of the upright image."""
    images, labels = folders(layout)
    turned = Image.new("RGB", (8, 12))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(images / "0.jpg", exif=exif)
    check_layout(images, labels, 2)


@pytest.mark.parametrize("text, words", [("one\n", "1 different names"), ("a\nb\na\n", "2 different names in 3 lines")])
def test_class_files_that_cannot_be_used(tmp_path, text, words):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        class_names(str(tmp_path / "names.txt"))
    with pytest.raises(UserError, match="cannot read the class names"):
        class_names(str(tmp_path / "absent.txt"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("token", [True, False])
def test_a_file_says_whether_its_backbone_has_a_class_token(tmp_path, token, suffix):
    backbone = CropFieldViT(embed_dim=8, depth=1, num_heads=2, field_size=2, class_token=token)
    write_backbone(tmp_path / f"backbone{suffix}", backbone.state_dict(), {})
    assert has_class_token(str(tmp_path / f"backbone{suffix}")) is token
    assert has_class_token("") is True and has_class_token("", otherwise=False) is False
