from types import SimpleNamespace

import numpy as np
import torch

from lab.figures.periodic_pictures import SIDE, PeriodicPictures, attention_overview, field_overview, masks_overview
from pretrain.models.vit import VisionTransformer


def make_backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        patch_size=16, embed_dim=24, depth=2, num_heads=2, field_size=(7, 9), field_init="sincos", layer_scale=1.0
    ).eval()


def test_the_field_overview_shows_the_field_of_now():
    backbone = make_backbone()
    before = field_overview(backbone)
    assert before.dtype == np.uint8 and before.shape[2] == 3 and before.shape[1] > 4 * SIDE
    with torch.no_grad():
        backbone.pos_embed.copy_(backbone.pos_embed.flip(1))
    assert not np.array_equal(before, field_overview(backbone))


def test_masks_are_drawn_where_they_are_and_a_batch_without_them_has_none():
    batch = {
        "global_crops": torch.full((6, 3, 224, 224), 255, dtype=torch.uint8),
        "content_masks": torch.zeros(6, 196, dtype=torch.bool),
    }
    assert masks_overview(batch, 16) is None
    for crop in range(2, 6):
        batch["content_masks"][crop, : 14 * crop] = True  # `crop` rows of patches, grey where white was
    picture = masks_overview(batch, 16)
    assert picture.shape == (SIDE, 4 * SIDE + 3 * 8, 3)
    grey = (picture == 128).all(2).sum()
    assert grey == (2 + 3 + 4 + 5) * 16 * 224
    batch["position_masks"] = ~batch["content_masks"]
    assert masks_overview(batch, 16).shape[0] == 2 * SIDE + 8
    del batch["content_masks"], batch["position_masks"]
    assert masks_overview(batch, 16) is None


def test_each_image_has_a_row_with_itself_features_and_attention():
    images = [np.random.default_rng(i).integers(0, 256, (90, 120, 3), dtype=np.uint8) for i in range(2)]
    backbone = make_backbone()
    picture = attention_overview(backbone, images)
    assert picture.shape[1] > 3.5 * SIDE and picture.shape[0] == 2 * 168 + 8
    with torch.no_grad():
        for parameter in backbone.blocks.parameters():
            parameter.mul_(1.5)
    assert not np.array_equal(picture, attention_overview(backbone, images))


def test_images_that_have_no_patch_when_they_are_drawn_are_left_out():
    sizes = [(12, 600), (90, 120), (600, 12), (120, 90)]
    images = [np.zeros((*size, 3), np.uint8) for size in sizes]
    hook = PeriodicPictures(num_images=3)
    source = type("Source", (), {"__len__": lambda self: len(images), "load": lambda self, index: images[index]})()
    backbone = make_backbone()
    hook.trainer = SimpleNamespace(model=SimpleNamespace(backbone=backbone), loader=SimpleNamespace(source=source))
    assert [image.shape[:2] for image in hook.read_images()] == [(90, 120), (120, 90)]
    del images[1::2]
    assert hook.read_images() == [] and attention_overview(backbone, []) is None
