"""Yaml projects: keys and registered builders."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from cropfield import CropFieldFeaturePyramid, CropFieldViT, add_cropfield_config


def yaml_config(tmp_path, builder: str):
    """A config as a yaml project makes it: defaults, our keys, then its file."""
    cfg = get_cfg()
    add_cropfield_config(cfg)
    path = tmp_path / "model.yaml"
    path.write_text(
        f"MODEL:\n  BACKBONE: {{NAME: {builder}}}\n"
        "  CROPFIELD: {PATCH_SIZE: 8, EMBED_DIM: 32, DEPTH: 2, NUM_HEADS: 2, FIELD_SIZE: [4, 6], LAYER_SCALE: 0.0,\n"
        "    FPN_CHANNELS: 16, FPN_SCALE_FACTORS: [2.0, 1.0, 0.5]}\n"
    )
    cfg.merge_from_file(str(path))
    return cfg


def test_plain_backbone(tmp_path):
    backbone = build_backbone(yaml_config(tmp_path, "build_cropfield_vit_backbone"))
    assert type(backbone) is CropFieldViT
    assert backbone.pos_embed.shape == (1, 24, 32)
    assert len(backbone.blocks) == 2
    assert not any(name.endswith("gamma") for name in backbone.state_dict())


def test_feature_pyramid(tmp_path):
    backbone = build_backbone(yaml_config(tmp_path, "build_cropfield_vit_fpn_backbone"))
    assert type(backbone) is CropFieldFeaturePyramid
    assert {name: (s.channels, s.stride) for name, s in backbone.output_shape().items()} == {
        "p2": (16, 4),
        "p3": (16, 8),
        "p4": (16, 16),
        "p5": (16, 32),
    }


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_the_top_level_is_half_of_the_last(tmp_path, patch):
    cfg = yaml_config(tmp_path, "build_cropfield_vit_fpn_backbone")
    cfg.merge_from_list(["MODEL.CROPFIELD.PATCH_SIZE", patch])
    *_, last, top = build_backbone(cfg).eval()(torch.zeros(1, 3, 448, 448)).values()
    assert last.shape[-1] * 2 ** round(math.log2(2 * patch)) == 448 and top.shape[-1] == (last.shape[-1] + 1) // 2


def test_every_key_reaches_the_backbone_or_the_pyramid(tmp_path):
    """Each value differs from its default."""
    cfg = yaml_config(tmp_path, "build_cropfield_vit_fpn_backbone")
    keys = dict(
        MLP_RATIO=2.0, DROP_PATH_RATE=0.3, LAYER_SCALE=0.5, FINAL_NORM=True, CLASS_TOKEN=True, SQUARE_PAD=64,
        ACTIVATION_CHECKPOINTING=True, OUT_FEATURE="patches", OUT_BLOCKS=[0, 1], FROZEN=True,
        FPN_NORM="", FPN_TOP_LEVEL=False,
    )  # fmt: skip
    cfg.merge_from_list([part for key, value in keys.items() for part in (f"MODEL.CROPFIELD.{key}", value)])
    pyramid = build_backbone(cfg)
    net = pyramid.net
    assert net.metadata == dict(
        patch_size="8", embed_dim="32", depth="2", num_heads="2", mlp_ratio="2.0", field_size="4x6", layer_scale="kept"
    )  # fmt: skip
    assert net.cls_token is not None
    assert net.blocks[-1].drop_path.rate == pytest.approx(0.3) and (net.blocks[0].ls1.gamma == 0.5).all()
    assert isinstance(net.norm, nn.LayerNorm) and net.activation_checkpointing
    assert net.padding_constraints["square_size"] == pyramid.padding_constraints["square_size"] == 64
    assert pyramid.output_shape().keys() == {"p2", "p3", "p4"}
    assert (pyramid.in_feature, net.out_blocks) == ("patches", {"patches": [0, 1]})
    assert net.frozen and not net.pos_embed.requires_grad
    assert not any(name.endswith("norm.weight") and "simfp" in name for name in pyramid.state_dict())


def test_the_defaults_are_vit_b16s_and_vitdets_pyramid():
    cfg = get_cfg()
    add_cropfield_config(cfg)
    assert cfg.MODEL.CROPFIELD == dict(
        PATCH_SIZE=16, EMBED_DIM=768, DEPTH=12, NUM_HEADS=12, MLP_RATIO=4.0, FIELD_SIZE=[50, 50], DROP_PATH_RATE=0.1,
        LAYER_SCALE=1e-5, FINAL_NORM=False, CLASS_TOKEN=False, ACTIVATION_CHECKPOINTING=False,
        OUT_FEATURE="last_feat", OUT_BLOCKS=[-1], FROZEN=False, SQUARE_PAD=0,
        FPN_CHANNELS=256, FPN_SCALE_FACTORS=[4.0, 2.0, 1.0, 0.5], FPN_NORM="LN", FPN_TOP_LEVEL=True,
        CANONICAL_BOX_SIZE=224,
    )  # fmt: skip
