"""Backbones of images of bands other than RGB, and RGB's weights in them."""

import pytest
import torch

from pretrain.data import pixel_statistics
from pretrain.errors import UserError
from pretrain.models.export_formats import write_detectron2, write_timm
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import load_backbone, open_backbone, read_backbone, write_backbone

SHAPE = dict(patch_size=4, embed_dim=16, depth=1, num_heads=2, field_size=3)


@pytest.fixture
def rgb(tmp_path):
    """A backbone of RGB and its file."""
    backbone = VisionTransformer(**SHAPE).eval()
    write_backbone(tmp_path / "rgb.safetensors", backbone.state_dict(), backbone.metadata)
    return backbone, tmp_path / "rgb.safetensors"


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 12])
def test_grey_has_the_same_features_in_any_number_of_equal_bands(rgb, channels):
    backbone, path = rgb
    other = VisionTransformer(**SHAPE, in_chans=channels).eval()
    report = load_backbone(other, path)
    assert f"patch embedding adapted from 3 to {channels} channels" in str(report) and not report.missing
    grey = torch.randn(2, 1, 12, 16)
    for ours, theirs in zip(
        other(grey.expand(-1, channels, -1, -1)), backbone(grey.expand(-1, 3, -1, -1)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_every_band_is_seen(rgb):
    other = VisionTransformer(**SHAPE, in_chans=5).eval()
    load_backbone(other, rgb[1])
    images = torch.zeros(6, 5, 12, 12)
    for band in range(5):
        images[band, band] = 1
    features = other(images)[1].detach()
    for band in range(5):
        assert (features[band] - features[5]).abs().max() > 1e-4


def test_a_file_of_other_bands_is_read_as_it_is_and_fits_no_others(rgb, tmp_path):
    five = VisionTransformer(**SHAPE, in_chans=5)
    write_backbone(tmp_path / "five.safetensors", five.state_dict(), five.metadata)
    opened = open_backbone(tmp_path / "five.safetensors")
    assert opened.in_chans == 5 and torch.equal(opened.patch_embed.proj.weight, five.patch_embed.proj.weight)
    for channels in (3, 4):
        with pytest.raises(UserError, match=f"five.* of 5 bands, and the backbone takes {channels}: set in_chans=5"):
            load_backbone(VisionTransformer(**SHAPE, in_chans=channels), tmp_path / "five.safetensors")
    with pytest.raises(UserError, match="an image has 3 bands, and the backbone takes 5"):
        opened(torch.zeros(1, 3, 12, 12))
    file = read_backbone(tmp_path / "five.safetensors")
    for write, ending in ((write_timm, "safetensors"), (write_detectron2, "pth")):
        assert "in_chans=5" in write(tmp_path / f"other.{ending}", file)
        assert "in_chans" not in write(tmp_path / f"rgb_.{ending}", read_backbone(rgb[1]))


def test_other_bands_have_statistics_of_their_own():
    assert pixel_statistics(3, None, None)[0][0] == 123.675
    assert pixel_statistics(2, (1, 2), (3, 4)) == ((1, 2), (3, 4))
    for mean, std, words in ((None, None, "none is given"), ((1, 2, 3), (1, 2), "3 are given")):
        with pytest.raises(UserError, match=f"images of 2 bands need 2 numbers as model.image_mean .* {words}"):
            pixel_statistics(2, mean, std)
