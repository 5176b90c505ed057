"""Trunks from files: the same features, without being told the shape."""

import pytest
import torch

from pretrain.evaluation.trunks import build_trunk, open_trunk
from pretrain.models.export import fold_layer_scale, write_backbone
from pretrain.models.vit import VisionTransformer


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_opened_trunk_has_the_features_of_the_written_one(tmp_path, class_token, folded, suffix):
    torch.manual_seed(0)
    trunk = VisionTransformer(8, 32, 2, 4, field_size=(3, 5), class_token=class_token, layer_scale=0.5).eval()
    state = fold_layer_scale(trunk.state_dict()) if folded else trunk.state_dict()
    path = tmp_path / f"trunk{suffix}"
    write_backbone(path, state, {"field_size": "3x5", "num_heads": "4"})
    images = torch.randn(2, 3, 24, 40)
    opened = open_trunk(path)
    assert not opened.training and not any(p.requires_grad for p in opened.parameters())
    for mine, theirs in zip(trunk(images), opened(images), strict=True):
        assert (mine is None and theirs is None) or torch.allclose(mine, theirs, atol=1e-5)


def test_the_untrained_twin_has_the_shape_and_not_the_weights(tmp_path):
    trunk = VisionTransformer(8, 32, 2, 4, field_size=3)
    write_backbone(tmp_path / "trunk.pth", trunk.state_dict(), {"num_heads": "4"})
    twin = build_trunk(tmp_path / "trunk.pth")
    assert twin.shape == trunk.shape
    assert not torch.equal(twin.blocks[0].attn.qkv.weight, trunk.blocks[0].attn.qkv.weight)


def test_the_untrained_twin_of_an_i_jepa_trunk_has_its_field(tmp_path):
    trunk = VisionTransformer(8, 32, 2, 4, field_size=3, field_init="sincos", learned_field=False, class_token=False)
    write_backbone(tmp_path / "trunk.pth", trunk.state_dict(), {"num_heads": "4"})
    assert torch.equal(build_trunk(tmp_path / "trunk.pth").pos_embed, trunk.pos_embed)
