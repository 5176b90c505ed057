"""timm's models as backbones: the same features on the same pixels, or a sentence."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer as TimmViT

from lab.timm_backbones import timm_backbone
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.errors import UserError

NARROW = dict(embed_dim=48, depth=2, num_heads=3, img_size=32)
create = timm.create_model


@pytest.fixture
def narrowed(monkeypatch):
    """timm's create_model gives small models with large numbers; `narrowed.made` is the last one, `.changes` go in."""

    def make(name, pretrained=False):
        torch.manual_seed(0)
        make.made = create(name, **NARROW | make.changes)
        with torch.no_grad():
            for parameter in make.made.parameters():
                parameter.uniform_(-0.3, 0.3)
        return make.made

    make.changes = {}
    monkeypatch.setattr(timm, "create_model", make)
    return make


@pytest.mark.parametrize(
    "name, changes",
    [
        ("vit_base_patch16_224.dino", {}),
        ("vit_base_patch16_224", {"img_size": (32, 64)}),  # mean and std one half; no square
        ("vit_base_patch16_siglip_224", {}),  # no class token
        ("deit3_small_patch16_224", {}),  # LayerScale, a class token without position
    ],
)
@torch.no_grad()
def test_the_backbone_has_timms_features_for_images_normalised_as_ours(narrowed, name, changes):
    narrowed.changes = changes
    backbone = timm_backbone(name)
    model = narrowed.made
    pixels = 255 * torch.rand(2, 3, *model.patch_embed.img_size)
    mean, std = (255 * torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = model.forward_features((pixels - mean) / std)
    ours = (pixels - torch.tensor(IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(IMAGE_STD).view(3, 1, 1)
    class_tokens, patches = backbone(ours)
    torch.testing.assert_close(patches, expected[:, model.num_prefix_tokens :], atol=1e-3, rtol=0)
    if class_tokens is not None:
        torch.testing.assert_close(class_tokens, expected[:, 0], atol=1e-3, rtol=0)
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())


def test_registers_are_dropped_with_a_word(narrowed, caplog):
    with caplog.at_level("INFO"):
        timm_backbone("vit_small_patch14_reg4_dinov2")
    assert "4 register tokens dropped, so features differ" in caplog.text


def test_what_tensors_do_not_show_is_found_by_its_features(narrowed):
    narrowed.changes = {"act_layer": torch.nn.ReLU}
    with pytest.raises(UserError, match="timm's vit_base_patch16_224.dino is not a plain ViT: its features differ by"):
        timm_backbone("vit_base_patch16_224.dino")


def test_models_that_are_no_plain_vit_get_a_sentence(monkeypatch):
    with pytest.raises(UserError, match="timm's resnet18 is a ResNet, not a plain ViT"):
        timm_backbone("resnet18", pretrained=False)
    with pytest.raises(UserError, match="timm has no model vit_bse_patch16_224; did you mean vit_base_patch16_224"):
        timm_backbone("vit_bse_patch16_224")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: TimmViT(qk_norm=True, **NARROW))
    with pytest.raises(UserError, match="not a plain ViT: it also has blocks.0.attn.q_norm"):
        timm_backbone("vit_base_patch16_224")


def test_weights_that_cannot_be_fetched_get_a_sentence(monkeypatch):
    def unreachable(name, pretrained):
        raise FileNotFoundError("An error happened while trying to locate the file. Check your connection.")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match="cannot be loaded .An error happened.*--weights.*--timm-random"):
        timm_backbone("vit_base_patch16_224")
