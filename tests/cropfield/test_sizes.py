"""Images, padding, patches and strides: what goes together runs, what does not is one sentence with the numbers."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyConfig, instantiate

from cropfield import CropFieldViT
from cropfield.backbone import feature_stride, pyramid_scales
from cropfield.sizes import check_sizes
from pretrain.errors import UserError

CONFIG = str(Path(__file__).parents[2] / "configs" / "COCO" / "mask_rcnn_cropfield_tiny.py")
LARGER = [f"dataloader.test.mapper.augmentations.0.{side}=256" for side in ("short_edge_length", "max_size")]


def checked(*overrides):
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG), ["model.backbone.net.depth=1", *overrides])
    model = instantiate(cfg.model).eval()
    for part in ("train", "test"):
        check_sizes(model, instantiate(cfg.dataloader[part].mapper).augmentations, f"dataloader.{part}.mapper")
    return model


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (LARGER, r"test.mapper.augmentations make images of up to 256 x 256 pixels .*square_pad=128 would cut them"),
        (["model.backbone.square_pad=64"], r"train.mapper.augmentations make images of up to 128 x 128"),
        (
            ["model.backbone.square_pad=100"],
            r"=100 is not a multiple of the 8 pixels .* set dataloader.image_size to 96 or 104",
        ),
        (["model.backbone.net.patch_size=14"], r"=128 is not a multiple of the 112 pixels .* to 112 or 224"),
        (["model.backbone.net.patch_size=4"], r"strides \[1, 2, 4, 8\], and the detector wants \[8, 16\]"),
        (
            ["model.proposal_generator.anchor_generator.strides=[4,8]"],
            r"levels p3 \(4\), p4 \(8\), .* gives p3 \(8\), p4 \(16\)",
        ),
        (["model.roi_heads.mask_pooler.scales=[0.25,0.125]"], r"mask_pooler is made for the levels p3 \(4\), p4 \(8\)"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(overrides, words):
    with pytest.raises(UserError, match=words):
        checked(*overrides)


@pytest.mark.parametrize(
    ("overrides", "height", "width"),
    [
        (["dataloader.image_size=64"], 64, 64),
        (["model.backbone.net.patch_size=16"], 128, 128),
        (["model.backbone.net.patch_size=14", "dataloader.image_size=112"], 112, 112),
        (["model.backbone.net.patch_size=14", "model.backbone.square_pad=0"], 90, 70),
        (["model.backbone.square_pad=0"], 96, 50),  # nothing is a square here
    ],
)
def test_what_goes_together_detects(overrides, height, width):
    model = checked(*overrides)
    with torch.no_grad():
        (found,) = model([{"image": torch.zeros(3, height, width), "height": height, "width": width}])
    assert found["instances"].image_size == (height, width)


def test_a_size_stands_once():
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG), ["dataloader.image_size=64"])
    resize, crop = cfg.dataloader.train.mapper.augmentations[1:]
    test = cfg.dataloader.test.mapper.augmentations[0]
    sizes = [resize.target_height, resize.target_width, *crop.crop_size, test.short_edge_length, test.max_size]
    assert sizes + [cfg.model.backbone.square_pad] == 7 * [64]


def test_patches_of_14_give_the_map_of_stride_16():
    net = CropFieldViT(patch_size=14, embed_dim=32, depth=1, num_heads=2, field_size=4).eval()
    assert net.output_shape()["last_feat"].stride == 16 and net.size_divisibility == 112
    images = torch.randn(1, 3, 112, 224)
    net.stride = 14
    raw = net(images)["last_feat"]
    net.stride = 16
    resampled = net(images)["last_feat"]
    assert raw.shape[-2:] == (8, 16) and resampled.shape[-2:] == (7, 14)
    torch.testing.assert_close(resampled, F.interpolate(raw, (7, 14), mode="bilinear"))


@pytest.mark.parametrize(("patch", "stride"), [(4, 4), (8, 8), (14, 16), (16, 16), (20, 16), (32, 32)])
def test_strides_are_powers_of_two(patch, stride):
    assert feature_stride(patch) == stride
    assert pyramid_scales(patch, [stride, 2 * stride]) == (1.0, 0.5)
