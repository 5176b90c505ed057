"""The limit of an image's pixels is a key: of sources, mappers, the check of a dataset and `predict`."""

import json
import warnings

import pytest
from PIL import Image as Pillow

from cropfield.datasets import check_coco_file
from cropfield.mapper import ImageMapper
from cropfield.media import find_media, frames
from pretrain.data.decode import BrokenImage, lift_pillows_limit, read_facts
from pretrain.data.images import open_source
from pretrain.data.reading import Reading
from pretrain.errors import UserError


@pytest.fixture
def folder(tmp_path):
    Pillow.new("RGB", (30, 20)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 30, "height": 20}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    content = {"images": [image], "categories": [{"id": 1, "name": "a"}], "annotations": [box]}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    return tmp_path


def readers(folder, limit: int):
    """Each way to read the image with a limit."""
    several = open_source([str(folder), str(folder / "labels.json")], max_pixels=limit)
    mapper = ImageMapper(is_train=False, augmentations=[], image_format="RGB", max_pixels=limit)
    (medium,) = find_media([folder / "a.png"], folder / "out")[0]
    return {
        "source": lambda: open_source(str(folder), max_pixels=limit).load(0),
        "first of several": lambda: several.load(0),
        "last of several": lambda: several.load(1),
        "mapper": lambda: mapper({"file_name": str(folder / "a.png")}),
        "predict": lambda: list(frames(medium, Reading(limit))),
    }


def test_every_reader_follows_it(folder):
    for name, read in readers(folder, 600).items():
        assert len(read()), name
    for read in readers(folder, 599).values():
        with pytest.raises(BrokenImage, match="too many pixels"):
            read()


def test_the_check_of_a_dataset_too(folder):
    check_coco_file(str(folder / "labels.json"), str(folder), Reading(600))
    with pytest.raises(UserError, match=r"raise dataset.max_pixels=599"):
        check_coco_file(str(folder / "labels.json"), str(folder), Reading(599))


def test_pillow_follows_a_higher_limit_and_no_lower_one(monkeypatch, folder):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImage, match="too many pixels"):  # Pillow's own error, at twice its limit
        open_source(str(folder), max_pixels=50).load(0)
    assert open_source(str(folder), max_pixels=600).load(0).shape == (20, 30, 3)
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings(action="error"):
        assert read_facts(folder / "a.png", Reading(500))[:2] == (30, 20)
    lift_pillows_limit(600)
    lift_pillows_limit(1)
    assert Pillow.MAX_IMAGE_PIXELS == 600
