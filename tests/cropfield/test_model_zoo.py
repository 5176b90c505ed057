"""Configs by name, and backbones of the shape of their files."""

import pytest
import torch
from torch.testing import assert_close

from cropfield import get_config, load_pretrained
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone

SHAPE = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0, "field_size": (5, 7)}


@pytest.mark.parametrize("layer_scale", [0.5, None])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_becomes_the_backbone_that_wrote_it(layer_scale, suffix, tmp_path):
    torch.manual_seed(0)
    backbone = VisionTransformer(**SHAPE, layer_scale=layer_scale).eval()
    path = tmp_path / f"backbone.{suffix}"
    write_backbone(path, backbone.state_dict(), backbone.metadata)
    loaded = load_pretrained(path, class_token=True, final_norm=True)
    assert loaded.state_dict().keys() == backbone.state_dict().keys()
    assert not loaded.training and all(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.randn(2, 3, 24, 40)
    with torch.no_grad():
        (_, patches), features = backbone(images), loaded(images)["last_feat"]
    assert_close(features.flatten(2).transpose(1, 2), patches)


def test_a_detectors_backbone_is_without_class_token_and_norm(tmp_path):
    backbone = VisionTransformer(**SHAPE)
    write_backbone(tmp_path / "backbone.pth", backbone.state_dict(), backbone.metadata)
    loaded = load_pretrained(tmp_path / "backbone.pth", out_features={"a": 0, "b": [1, 2]})
    assert loaded.cls_token is None and set(loaded.output_shape()) == {"a", "b"}


def test_heads_that_are_not_recorded_can_be_given(tmp_path):
    backbone = VisionTransformer(8, 40, 1, 4, field_size=3)
    torch.save(backbone.state_dict(), tmp_path / "b.pth")
    assert load_pretrained(tmp_path / "b.pth", num_heads=4).blocks[0].attn.num_heads == 4
    for heads in (-4, 3):
        with pytest.raises(UserError, match=f"{heads} heads cannot share 40 channels"):
            load_pretrained(tmp_path / "b.pth", num_heads=heads)


def test_configs_by_name():
    assert get_config("COCO/mask_rcnn_cropfield_tiny.py", ["train.max_iter=7"]).train.max_iter == 7
    assert get_config("projects/CropField/configs/faster_rcnn_cropfield_vits.yaml").MODEL.CROPFIELD.DEPTH == 12
    with pytest.raises(
        UserError, match=r"no config COCO/mask_rcnn_cropfield_tinny.py; did you mean COCO/mask_rcnn_cropfield_tiny.py"
    ):
        get_config("COCO/mask_rcnn_cropfield_tinny.py")
