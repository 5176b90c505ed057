"""The datasets of StoP's tables, each in its layout on disk."""

import json
import shutil

import pytest

from lab.probes.datasets import framing_of, open_dataset
from lab.probes.recipes import DATASETS, PROBE_EPOCHS
from pretrain.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_datasets):
    """Three classes of four training and two validation images, as every dataset but CLEVR."""
    root = tmp_path_factory.mktemp("datasets")
    pictures = tiny_datasets.drawn_pictures(3, train=4, val=2, size=24)
    for name in ("imagenet", "places205", "inat18", "cifar100"):
        getattr(tiny_datasets, f"write_{name}")(root / name, pictures)
    tiny_datasets.write_clevr(root, train=4, val=2)
    return root


CLASSES = {
    "imagenet": ["n01440764", "n01443537", "n01484850"],
    "places205": ["a/abbey", "a/apartment_building/outdoor", "b/bedroom"],
    "inat18": ["12", "3401", "7477"],  # by number
    "cifar100": ["bears/bear", "containers/bowl", "fruit/apple"],
}


@pytest.mark.parametrize("name", CLASSES)
def test_each_layout_is_read(root, name):
    train, val = open_dataset(name, root / name)
    assert train.classes == val.classes == CLASSES[name]
    assert sorted(train.labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(val.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    for images in (train, val):
        for index in range(len(images)):
            images.load(index)
            assert images.classes[images.labels[index]] in images.name(index)
    assert not {train.path(i) for i in range(len(train))} & {val.path(i) for i in range(len(val))}


def test_one_percent_is_what_the_list_names(root, tmp_path):
    train, val = open_dataset("imagenet_1pct", root / "imagenet", root / "imagenet" / "1percent.txt")
    assert [train.name(i) for i in range(2)] == ["n01440764/n01440764_0.JPEG", "n01440764/n01440764_3.JPEG"]
    assert len(train) == 6 and len(val) == 6
    short = tmp_path / "short.txt"
    short.write_text("n01484850_1.JPEG\nn01443537/n01443537_2.JPEG\n")
    with pytest.raises(UserError, match="n01484850_1.JPEG is not in a sub-folder"):
        open_dataset("imagenet_1pct", root / "imagenet", short)
    short.write_text("n01484850_1.JPEG\nn01443537_2.JPEG\n")
    train, _ = open_dataset("imagenet_1pct", root / "imagenet", short)
    assert train.labels.tolist() == [2, 1] and train.classes == CLASSES["imagenet"]  # numbers stay those of all synsets


def test_places_and_inat_may_also_be_folders_of_class_folders(root, tmp_path):
    for name in ("places205", "inat18"):
        shutil.copytree(root / "imagenet", tmp_path / name)
        train, val = open_dataset(name, tmp_path / name)
        assert train.classes == CLASSES["imagenet"] and len(train) == 12 and len(val) == 6


def test_clevr_and_what_is_cropped(root):
    for name, classes in (("clevr_count", 8), ("clevr_dist", 6)):
        train, val = open_dataset(name, root / "CLEVR_v1.0")
        assert (len(train), len(val), len(train.classes)) == (4, 2, classes)
    assert [name for name in DATASETS if framing_of(name) == "whole"] == ["clevr_count", "clevr_dist"]


def test_what_is_wrong_is_told(root, tmp_path):
    with pytest.raises(UserError, match="there is no dataset mnist; supported are imagenet"):
        open_dataset("mnist", root)
    with pytest.raises(UserError, match="there is no folder"):
        open_dataset("imagenet", tmp_path / "absent")
    for name, listed in (("imagenet", tmp_path), ("imagenet_1pct", None)):
        with pytest.raises(UserError, match="--train-list"):
            open_dataset(name, root / "imagenet", listed)
    with pytest.raises(UserError, match="train does not exist"):
        open_dataset("cifar100", tmp_path)
    shutil.copytree(root / "inat18", tmp_path / "inat18")
    file = tmp_path / "inat18" / "val2018.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"annotations": content["annotations"][1:]}))
    with pytest.raises(UserError, match="val2018.json: 1 is missing"):
        open_dataset("inat18", tmp_path / "inat18")
    content["annotations"][0]["category_id"] = 77
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="class 77 is not among"):
        open_dataset("inat18", tmp_path / "inat18")


def test_epochs_of_the_probes_are_vissls():
    assert PROBE_EPOCHS == {
        "imagenet": 28, "imagenet_1pct": 28, "places205": 14, "inat18": 84, "cifar100": 28,
        "clevr_count": 50, "clevr_dist": 100,
    }  # fmt: skip
