"""CropField for yaml projects: keys under MODEL.CROPFIELD, and what they build, in Detectron2's registries.

The backbone is imported only when one is built, so that `import cropfield` costs no more than `import
detectron2.engine`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from cropfield.batched_roi_heads import BatchedROIHeads
from pretrain.errors import UserError

if TYPE_CHECKING:
    from cropfield.backbone import CropFieldFeaturePyramid, CropFieldViT


def add_cropfield_config(cfg: CfgNode) -> None:
    """Add MODEL.CROPFIELD with the values of ViT-B/16. The keys are `CropFieldViT`'s arguments."""
    cfg.MODEL.CROPFIELD = node = CfgNode()
    node.PATCH_SIZE = 16
    node.EMBED_DIM = 768
    node.DEPTH = 12
    node.NUM_HEADS = 12
    node.MLP_RATIO = 4.0
    node.FIELD_SIZE = [50, 50]
    node.DROP_PATH_RATE = 0.1
    node.LAYER_SCALE = 1e-5  # initial value; 0 disables LayerScale
    node.FINAL_NORM = False
    node.CLASS_TOKEN = False
    node.ACTIVATION_CHECKPOINTING = False
    node.OUT_FEATURE = "last_feat"
    node.OUT_BLOCKS = [-1]  # the output: these blocks' maps, concatenated along channels
    node.FROZEN = False
    node.SQUARE_PAD = 0  # pixels; 0 pads to multiples of the stride only
    # The simple feature pyramid of build_cropfield_vit_fpn_backbone.
    node.FPN_CHANNELS = 256
    node.FPN_SCALE_FACTORS = [4.0, 2.0, 1.0, 0.5]
    node.FPN_NORM = "LN"
    node.FPN_TOP_LEVEL = True  # one more level, by max pooling, for the RPN
    node.CANONICAL_BOX_SIZE = 224  # pixels; boxes of this size are pooled from p4 (CropFieldROIHeads)


def read_keys(cfg: CfgNode) -> CfgNode:
    """MODEL.CROPFIELD of `cfg`, with defaults for the keys that it lacks. Raises UserError."""
    defaults = CfgNode({"MODEL": CfgNode()})
    add_cropfield_config(defaults)
    keys, given = defaults.MODEL.CROPFIELD, cfg.MODEL.get("CROPFIELD", {})
    unknown = ", ".join(sorted(given.keys() - keys.keys()))
    if unknown:
        raise UserError(f"MODEL.CROPFIELD has no key {unknown}; it has {', '.join(keys)}")
    keys.update(given)
    return keys


@BACKBONE_REGISTRY.register()
def build_cropfield_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> CropFieldViT:
    """Build the plain backbone: one feature map at the patch's stride.

    Args:
        input_shape: passed by Detectron2: as many channels as MODEL.PIXEL_MEAN has numbers. None: three.
    """
    from cropfield.backbone import CropFieldViT

    node = read_keys(cfg)
    return CropFieldViT(
        patch_size=node.PATCH_SIZE,
        in_chans=input_shape.channels if input_shape and input_shape.channels else 3,
        embed_dim=node.EMBED_DIM,
        depth=node.DEPTH,
        num_heads=node.NUM_HEADS,
        mlp_ratio=node.MLP_RATIO,
        field_size=tuple(node.FIELD_SIZE),
        drop_path_rate=node.DROP_PATH_RATE,
        layer_scale=node.LAYER_SCALE or None,
        final_norm=node.FINAL_NORM,
        class_token=node.CLASS_TOKEN,
        activation_checkpointing=node.ACTIVATION_CHECKPOINTING,
        out_features={node.OUT_FEATURE: node.OUT_BLOCKS},
        frozen=node.FROZEN,
        square_pad=node.SQUARE_PAD,
    )


@BACKBONE_REGISTRY.register()
def build_cropfield_vit_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> CropFieldFeaturePyramid:
    """Build the backbone with a simple feature pyramid: "p2" ... "p6" with patches of 16 and the default scale
    factors.
    """
    from cropfield.backbone import CropFieldFeaturePyramid, feature_stride

    node = read_keys(cfg)
    last_stride = feature_stride(node.PATCH_SIZE) / min(node.FPN_SCALE_FACTORS)
    return CropFieldFeaturePyramid(
        net=build_cropfield_vit_backbone(cfg, input_shape),
        in_feature=node.OUT_FEATURE,
        out_channels=node.FPN_CHANNELS,
        scale_factors=node.FPN_SCALE_FACTORS,
        top_block=_max_pool_over(last_stride) if node.FPN_TOP_LEVEL else None,
        norm=node.FPN_NORM,
        square_pad=node.SQUARE_PAD,
    )


@ROI_HEADS_REGISTRY.register()
class CropFieldROIHeads(BatchedROIHeads):
    """`BatchedROIHeads` with MODEL.CROPFIELD.CANONICAL_BOX_SIZE, which has no key in Detectron2."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        parts = super().from_config(cfg, input_shape)
        for name in ("box_pooler", "mask_pooler"):
            if parts.get(name) is not None:
                parts[name].canonical_box_size = read_keys(cfg).CANONICAL_BOX_SIZE
        return parts


def _max_pool_over(stride: float) -> LastLevelMaxPool:
    """Max pooling over the level with this stride; Detectron2's class supports "p5" only, the last level for patches of
    16.
    """
    top = LastLevelMaxPool()
    top.in_feature = f"p{int(math.log2(stride))}"
    return top
