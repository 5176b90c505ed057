"""Yaml projects: keys and registered builders."""

from cropfield import CropFieldFeaturePyramid, CropFieldViT, add_cropfield_config
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone


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
