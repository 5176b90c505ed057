"""lightly's wrapper of timm's ViTs with an export's weights: the features of the backbone."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer as TimmViT

from pretrain.models.export_formats import write_timm
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import read_backbone

modules = pytest.importorskip("lightly.models.modules")


@torch.no_grad()
def test_it_has_the_backbones_features(tmp_path):
    torch.manual_seed(0)
    backbone = VisionTransformer(16, 48, 2, 3, field_size=6, layer_scale=0.5).eval()
    save_file(backbone.state_dict(), tmp_path / "ours.safetensors", backbone.metadata)
    write_timm(tmp_path / "timm.safetensors", read_backbone(tmp_path / "ours.safetensors"))
    vit = TimmViT(img_size=96, patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    wrapped = modules.MaskedVisionTransformerTIMM(vit, pos_embed_initialization="skip").eval()
    wrapped.vit.load_state_dict(load_file(tmp_path / "timm.safetensors"))  # afterwards: it starts all layers anew
    images = torch.randn(2, 3, 96, 96)
    class_tokens, patches = backbone(images)
    theirs = wrapped.encode(images)
    torch.testing.assert_close(theirs, torch.cat([class_tokens[:, None], patches], 1), atol=1e-5, rtol=0)
