"""Images with a class each."""

import cv2
import numpy as np
import pytest

from lab.probes.labelled import labelled_folder, listed_files
from pretrain.errors import UserError


def write(folder, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((4, 5, 3), 90, dtype=np.uint8))


def test_sub_folders_are_the_classes(tmp_path):
    write(tmp_path, "train/b/1.png", "train/a/deep/2.png", "val/b/3.png")
    train = labelled_folder(tmp_path / "train")
    assert train.classes == ["a", "b"] and train.labels.tolist() == [0, 1]
    assert labelled_folder(tmp_path / "val", train.classes).labels.tolist() == [1]
    with pytest.raises(UserError, match="only one class"):
        labelled_folder(tmp_path / "val")
    write(tmp_path, "val/c/4.png")
    with pytest.raises(UserError, match="class c is not among"):
        labelled_folder(tmp_path / "val", train.classes)
    write(tmp_path, "val/5.png")
    with pytest.raises(UserError, match="5.png is not in a sub-folder"):
        labelled_folder(tmp_path / "val")


def test_where_folders_are_nested_the_whole_path_is_the_class(tmp_path):
    write(tmp_path, "fruit/apple/1.png", "fruit/pear/2.png", "bears/bear/3.png")
    nested = labelled_folder(tmp_path, nested=True)
    assert nested.classes == ["bears/bear", "fruit/apple", "fruit/pear"] and nested.labels.tolist() == [0, 1, 2]
    assert labelled_folder(tmp_path).classes == ["bears", "fruit"]
    assert nested.name(1) == "fruit/apple/1.png" and nested.path(1).is_file() and nested.load(1).shape == (4, 5, 3)


def test_a_list_of_files_that_are_elsewhere_is_told(tmp_path):
    write(tmp_path, "a.png")
    assert listed_files(tmp_path, ["a.png", "b.png", "c.png"], tmp_path / "list").name(1) == "b.png"
    with pytest.raises(UserError, match="none is below .* such as b.png"):
        listed_files(tmp_path, ["b.png", "c.png"], tmp_path / "list")
    with pytest.raises(UserError, match="of the 0 images"):
        listed_files(tmp_path, [], tmp_path / "list")
