"""CropField for Detectron2: the pretrained trunk as a backbone, from LazyConfig files or yaml."""

from cropfield.autocast import BFloat16RCNN
from cropfield.backbone import CropFieldFeaturePyramid, CropFieldViT, PlainBackbone
from cropfield.config import add_cropfield_config, build_cropfield_vit_backbone, build_cropfield_vit_fpn_backbone
from cropfield.weights import LoadReport, load_backbone, load_weights

__all__ = [
    "BFloat16RCNN",
    "CropFieldFeaturePyramid",
    "CropFieldViT",
    "LoadReport",
    "PlainBackbone",
    "add_cropfield_config",
    "build_cropfield_vit_backbone",
    "build_cropfield_vit_fpn_backbone",
    "load_backbone",
    "load_weights",
]
