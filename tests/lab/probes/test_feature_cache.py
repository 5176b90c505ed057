"""Features kept on disk: the right ones or none."""

import logging
import os
from dataclasses import replace

import pytest
import torch

from lab.probes import feature_cache
from lab.probes.feature_cache import Extraction, cache_key, cached_features, fingerprint
from lab.probes.features import pooled_layers
from lab.probes.framing import FramedImages
from lab.probes.labelled import labelled_folder
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer

EXTRACTION = Extraction(image_size=16, views=2, layers=3, pools=("cls", "patch"))


@pytest.fixture
def images(tmp_path, tiny_datasets):
    tiny_datasets.write_imagenet(tmp_path / "data", tiny_datasets.drawn_pictures(2, train=3, val=1, size=24))
    (tmp_path / "data" / "train" / "n01440764" / "n01440764_1.JPEG").write_bytes(b"broken")
    return labelled_folder(tmp_path / "data" / "train")


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return VisionTransformer(8, 16, 4, 2, field_size=2, layer_scale=1.0).eval()


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Grows by one with each batch that the backbone sees."""
    seen = []

    def count(backbone, images, *args):
        seen.append(len(images))
        return pooled_layers(backbone, images, *args)

    monkeypatch.setattr(feature_cache, "pooled_layers", count)
    return seen


def test_what_is_read_back_is_what_the_backbone_says(tmp_path, images, backbone):
    features = cached_features(backbone, images, EXTRACTION, tmp_path / "kept", batch_size=4)
    assert features.values.shape == (2, 6, 2, 3, 16) and features.rows.tolist() == [0, 2, 3, 4, 5]
    assert features.labels.tolist() == [0, 0, 1, 1, 1]
    framed = FramedImages(images, range(6), 16, views=2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    for view in (0, 1):
        pixels = torch.stack([framed[6 * view + i][0] for i in features.rows.tolist()])
        expected = pooled_layers(backbone, (pixels - mean) / std, 3, ["cls", "patch"])
        torch.testing.assert_close(features.select("patch", 2, view=view), expected[:, 1, 1:].flatten(1), **HALF)
        torch.testing.assert_close(features.select("cls", 1, [2], view), expected[2:3, 0, 2], **HALF)
    assert torch.equal(features.select("cls", 1, view=3), features.select("cls", 1, view=1))  # views in turn


def test_a_name_that_is_no_utf8_is_a_name(images, backbone):
    folder = images.path(0).parent
    os.rename(images.path(0), os.fsencode(folder) + b"/\xff.JPEG")
    assert cache_key(backbone, labelled_folder(folder.parent), EXTRACTION) != cache_key(backbone, images, EXTRACTION)


HALF = dict(atol=2e-3, rtol=1e-3)  # of float16


def test_the_backbone_works_once_and_again_when_anything_changes(tmp_path, images, backbone, passes):
    def again(backbone=backbone, images=images, extraction=EXTRACTION) -> bool:
        passes.clear()
        cached_features(backbone, images, extraction, tmp_path / "kept", batch_size=32)
        return bool(passes)

    assert again() and not again()
    for change in ({"image_size": 24}, {"framing": "whole"}, {"views": 1}, {"seed": 1}, {"layers": 2}, {"amp": True}):
        assert again(extraction=replace(EXTRACTION, **change)), change
    with torch.no_grad():
        backbone.blocks[2].norm1.bias[3] += 1e-3
    assert again() and not again()
    backbone.num_heads = 4  # no tensor shows it
    assert again() and not again()
    path = images.path(2)
    os.utime(path, ns=(1, 1))
    assert again() and not again()
    path.rename(path.with_name("other.JPEG"))
    assert again(images=labelled_folder(images.source.root))
    assert not list((tmp_path / "kept").glob(".*"))  # no drafts


def test_labels_are_not_part_of_it(tmp_path, images, backbone, passes):
    """CLEVR's two questions share their features."""
    cached_features(backbone, images, EXTRACTION, tmp_path)
    passes.clear()
    images.labels = 1 - images.labels
    assert cached_features(backbone, images, EXTRACTION, tmp_path).labels.tolist() == [1, 1, 0, 0, 0] and not passes


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "of something else"])
def test_a_damaged_file_is_noticed_and_made_anew(tmp_path, images, backbone, passes, caplog, damage):
    first = cached_features(backbone, images, EXTRACTION, tmp_path / "kept").values.clone()
    (path,) = (tmp_path / "kept").iterdir()
    whole = path.read_bytes()
    path.unlink()  # the features above are mapped from it
    other = whole.replace(b"(2, 6, 2, 3, 16)", b"(2, 5, 2, 3, 16)", 1)
    assert len(other) == len(whole) and other != whole
    path.write_bytes({"truncated": whole[:-7], "empty": b"", "text": b"hello", "of something else": other}[damage])
    passes.clear()
    with caplog.at_level(logging.WARNING):
        second = cached_features(backbone, images, EXTRACTION, tmp_path / "kept").values
    assert passes and torch.equal(first, second)
    assert "computed again" in caplog.text and path.read_bytes() == whole


def test_nothing_is_left_when_the_pass_fails(tmp_path, images, backbone, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "pooled_layers", fail)
    with pytest.raises(UserError, match="No space left on device"):
        cached_features(backbone, images, EXTRACTION, tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


def test_bad_requests_are_told_before_the_pass(tmp_path, images, backbone, passes):
    for extraction, message in (
        (replace(EXTRACTION, image_size=20), "patches of 8"),
        (replace(EXTRACTION, layers=5), "4 layers"),
    ):
        with pytest.raises(UserError, match=message):
            cached_features(backbone, images, extraction, tmp_path)
    assert not passes
    for index in range(len(images)):
        images.path(index).write_bytes(b"broken")
    with pytest.raises(UserError, match="none of its 6 images can be read"):
        cached_features(backbone, images, EXTRACTION, tmp_path)


def test_the_fingerprint_is_of_the_values():
    torch.manual_seed(3)
    a = VisionTransformer(8, 16, 1, 2, field_size=2)
    b = VisionTransformer(8, 16, 1, 2, field_size=2)
    assert fingerprint(a) == fingerprint(a) != fingerprint(b)
    b.load_state_dict(a.state_dict())
    assert fingerprint(a) == fingerprint(b)
    assert fingerprint(a) != fingerprint(a.bfloat16())
