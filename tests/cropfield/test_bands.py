"""Detectors of images of bands other than RGB."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cropfield.canvas import as_rgb
from cropfield.datasets import check_coco_file
from cropfield.forms import Detection
from cropfield.halves import check_pixels
from cropfield.mapper import ImageMapper, ResizeShortestEdge
from cropfield.trial import try_detector
from cropfield.weights import load_weights
from pretrain.data.reading import Reading
from pretrain.engine.forms import Pretraining
from pretrain.engine.lazy_config import load_config
from pretrain.errors import UserError

tifffile = pytest.importorskip("tifffile")
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DETECTOR, PRETRAINING = CONFIGS / "COCO/mask_rcnn_cropfield_tiny.py", CONFIGS / "pretrain/cropfield_tiny.py"
SMALL = (
    "train.device=cpu", "model.backbone.net.embed_dim=32", "model.backbone.net.depth=1",
    "model.backbone.net.num_heads=2",
)  # fmt: skip
FIVE = ("model.backbone.net.in_chans=5", "model.pixel_mean=[1,2,3,4,5]", "model.pixel_std=[1,2,3,4,5]")


def tiff(bands: int) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (bands, 40, 50), dtype=np.uint8)
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="separate")
    return file.getvalue()


@pytest.fixture
def dataset(tmp_path):
    """write(bands, ...) -> overrides for a dataset of one image for each number of bands."""

    def write(*bands: int) -> list[str]:
        images, things = [], []
        for number, count in enumerate(bands, start=1):
            (tmp_path / f"{number}.tif").write_bytes(tiff(count))
            images.append({"id": number, "file_name": f"{number}.tif", "width": 50, "height": 40})
            thing = {"id": number, "image_id": number, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400}
            things.append(thing | {"iscrowd": 0, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]})
        content = {"images": images, "annotations": things, "categories": [{"id": 1, "name": "thing"}]}
        (tmp_path / f"{bands}.json").write_text(json.dumps(content))
        parts = {"json": tmp_path / f"{bands}.json", "images": tmp_path}
        return [f'dataset.{split}_{what}="{path}"' for split in ("train", "val") for what, path in parts.items()]

    return write


def config(dataset, *overrides):
    return load_config(DETECTOR, [*dataset, *SMALL, *overrides], Detection)


def test_a_detector_of_five_bands_passes_its_trial(dataset):
    model = try_detector(config(dataset(5), *FIVE))
    assert model.backbone.net.in_chans == 5 and model.pixel_mean.flatten().tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (FIVE[:1], r"images of 5 bands need 5 numbers as model.image_mean .* model.pixel_mean .*, and 3 are given"),
        ((*FIVE, "dataloader.test.mapper.channels=4"), r"in_chans is 5, and the mapper reads images of 4 bands"),
        ((*FIVE, "dataset.value_range=[5,5]"), r"value_range=\[5, 5\] is empty"),
        ((*FIVE, "dataset.value_range=12 bits"), r"value_range.* is '12 bits'; give a list of 2"),
        (("model.backbone.net.in_chans=13",), r"is 13; give a whole number from 1 to 12"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(dataset, overrides, words):
    with pytest.raises(UserError, match=words):
        try_detector(config(dataset(5), *overrides))


def test_a_datasets_bands_are_looked_at_before_any_work(dataset, tmp_path, caplog):
    dataset(5, 6)
    with pytest.raises(UserError, match="bands differ between images: 1.tif has 5 and 2.tif 6"):
        check_coco_file(str(tmp_path / "(5, 6).json"), str(tmp_path), Reading(channels=5))
    with pytest.raises(UserError, match="1 of 2 images .* fewer bands than in_chans=6, 1.tif first, which has 5"):
        check_coco_file(str(tmp_path / "(5, 6).json"), str(tmp_path), Reading(channels=6))
    check_coco_file(str(tmp_path / "(5, 6).json"), str(tmp_path))
    assert (
        "2 of 2 images that were looked at have more bands than in_chans=3 takes (1.tif first, with 5)" in caplog.text
    )


@pytest.mark.parametrize("bands", [2, 4, 5])
def test_resizing_does_to_each_band_what_it_does_to_it_alone(bands, tmp_path):
    """Pillow would multiply the others by a second or fourth band."""
    (tmp_path / "image.tif").write_bytes(tiff(bands))
    mapper = ImageMapper(False, augmentations=[ResizeShortestEdge(64, 64)], image_format="RGB", channels=bands)
    mapped = mapper({"file_name": str(tmp_path / "image.tif")})["image"].numpy()
    for band, plane in enumerate(tifffile.imread(tmp_path / "image.tif")):
        alone = Image.fromarray(plane).resize(mapped.shape[:0:-1], Image.BILINEAR)
        assert np.array_equal(mapped[band], np.asarray(alone))


def test_a_detector_of_other_bands_is_not_loaded(dataset, tmp_path):
    five = try_detector(config(dataset(5), *FIVE))
    torch.save({"model": five.state_dict()}, tmp_path / "five.pth")
    with pytest.raises(
        UserError, match="a detector of images of 5 bands, and the config's takes 3; set model.backbone"
    ):
        load_weights(try_detector(config(dataset(3))), tmp_path / "five.pth", whole=True)


def test_both_halves_read_pixels_alike():
    other = ["model.backbone.in_chans=5", "model.image_mean=[1,2,3,4,5]", "model.image_std=[1,2,3,4,5]"]

    def check(*overrides, detect=()):
        halves = (
            load_config(PRETRAINING, list(overrides), Pretraining),
            load_config(DETECTOR, [*FIVE, *detect], Detection),
        )
        check_pixels(*halves)

    check(*other)
    with pytest.raises(UserError, match=r"pretrain.model.image_std is \[9.0, .* detect.model.pixel_std \[1.0, "):
        check(*other[:2], "model.image_std=[9,2,3,4,5]")
    with pytest.raises(
        UserError, match=r"pretrain.*value_range is None and detect.dataset.value_range \[0.0, 4095.0\]"
    ):
        check(*other, detect=["dataset.value_range=[0,4095]"])


def test_pictures_show_the_first_band_or_the_first_three():
    for bands in (1, 2, 3, 5):
        image = np.random.default_rng(0).integers(0, 256, (20, 30, bands), dtype=np.uint8)
        shown = image[..., :3] if bands >= 3 else np.repeat(image[..., :1], 3, axis=2)
        assert np.array_equal(as_rgb(image), shown)
        assert np.array_equal(as_rgb(torch.from_numpy(image).permute(2, 0, 1)), shown)
