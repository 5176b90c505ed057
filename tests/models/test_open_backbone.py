"""Backbones from files: the same features, without being told the shape."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer as TimmViT

from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weight_layouts import PUBLISHED_HEADS
from pretrain.models.weights import fold_layer_scale, open_backbone, write_backbone


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_opened_backbone_has_the_features_of_the_written_one(tmp_path, class_token, folded, suffix):
    torch.manual_seed(0)
    backbone = VisionTransformer(8, 32, 2, 4, field_size=(3, 5), class_token=class_token, layer_scale=0.5).eval()
    state = fold_layer_scale(backbone.state_dict()) if folded else backbone.state_dict()
    path = tmp_path / f"backbone{suffix}"
    write_backbone(path, state, {"field_size": "3x5", "num_heads": "4"})
    images = torch.randn(2, 3, 24, 40)
    opened = open_backbone(path)
    assert not opened.training and not any(p.requires_grad for p in opened.parameters())
    for mine, theirs in zip(backbone(images), opened(images), strict=True):
        assert (mine is None and theirs is None) or torch.allclose(mine, theirs, atol=1e-5)


def test_the_untrained_twin_has_the_shape_and_not_the_weights(tmp_path):
    backbone = VisionTransformer(8, 32, 2, 4, field_size=3)
    write_backbone(tmp_path / "backbone.pth", backbone.state_dict(), {"num_heads": "4"})
    twin = open_backbone(tmp_path / "backbone.pth", untrained=True)
    assert twin.metadata == backbone.metadata
    assert not torch.equal(twin.blocks[0].attn.qkv.weight, backbone.blocks[0].attn.qkv.weight)


def test_the_untrained_twin_of_an_i_jepa_backbone_has_its_field(tmp_path):
    backbone = VisionTransformer(8, 32, 2, 4, field_size=3, field_init="sincos", learned_field=False, class_token=False)
    write_backbone(tmp_path / "backbone.pth", backbone.state_dict(), {"num_heads": "4"})
    assert torch.equal(open_backbone(tmp_path / "backbone.pth", untrained=True).pos_embed, backbone.pos_embed)


RELEASES = {  # I-JEPA's and StoP's; both have 16 heads and no class token
    "ViT-H/14": dict(embed_dim=1280, patch_size=14, mlp_ratio=1),
    "ViT-g/16": dict(embed_dim=1408, patch_size=16, mlp_ratio=8 / 11),
}


@pytest.mark.parametrize("name", RELEASES)
@torch.no_grad()
def test_vit_h_and_vit_g_are_read_with_sixteen_heads(tmp_path, name):
    """A file in the releases' format, of full width, with one block and a narrow MLP, has timm's features."""
    torch.manual_seed(0)
    options = dict(depth=1, num_heads=16, img_size=4 * RELEASES[name]["patch_size"], num_classes=0, weight_init="skip")
    options |= dict(class_token=False, global_pool="avg", fc_norm=False)
    source = TimmViT(**RELEASES[name], **options).eval()
    source.pos_embed.normal_()
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    student = {"module.patch_embed.proj.weight": torch.zeros(8, 3, 8, 8)}
    path = tmp_path / "release.pth.tar"
    torch.save({"encoder": student, "target_encoder": state, "predictor": {}, "epoch": 300, "lr": 1e-6}, path)
    images = torch.randn(1, 3, *2 * [options["img_size"]], dtype=torch.float64)
    backbone, expected = open_backbone(path).double(), source.double().forward_features(images)
    torch.testing.assert_close(backbone(images)[1], expected, atol=1e-10, rtol=0)
    backbone.blocks[0].attn.num_heads = backbone.embed_dim // 64  # 20 and 22
    assert (backbone(images)[1] - expected).abs().max() > 1e-2  # the number of heads is seen


def test_known_widths_have_timms_heads():
    names = "tiny_patch16_224 small_patch16_224 base_patch16_224 large_patch16_224 huge_patch14_224 giant_patch14_224 "
    names += "giant_patch14_dinov2 so400m_patch14_siglip_224 gigantic_patch14_224 medium_patch16_gap_240"
    with torch.device("meta"):
        for name in names.split():
            model = timm.create_model(f"vit_{name}", depth=1, num_classes=0, weight_init="skip")
            assert PUBLISHED_HEADS[model.embed_dim] == model.blocks[0].attn.num_heads, name


def test_unknown_heads_are_asked_for(tmp_path):
    backbone = VisionTransformer(8, 40, 1, 5, field_size=3)
    write_backbone(tmp_path / "backbone.pth", backbone.state_dict(), {})
    with pytest.raises(UserError, match=r"backbone.pth .* 40 channels wide; give it .--num-heads, num_heads."):
        open_backbone(tmp_path / "backbone.pth")
    assert open_backbone(tmp_path / "backbone.pth", num_heads=5).num_heads == 5
    write_backbone(tmp_path / "recorded.pth", backbone.state_dict(), {"num_heads": "4"})
    assert open_backbone(tmp_path / "recorded.pth", num_heads=5).num_heads == 4  # the file knows
