"""CropField for Detectron2: the pretrained ViT as a backbone, from LazyConfig files or yaml."""

from cropfield.autocast import BFloat16RCNN
from cropfield.backbone import CropFieldFeaturePyramid, CropFieldViT, PlainBackbone
from cropfield.config import add_cropfield_config, build_cropfield_vit_backbone, build_cropfield_vit_fpn_backbone
from cropfield.model_zoo import get_config, get_config_file, load_pretrained
from cropfield.weights import load_weights
from pretrain.models.weights import LoadReport, load_backbone

__version__ = "0.1.0"

__all__ = [
    "BFloat16RCNN",
    "CropFieldFeaturePyramid",
    "CropFieldViT",
    "LoadReport",
    "PlainBackbone",
    "add_cropfield_config",
    "build_cropfield_vit_backbone",
    "build_cropfield_vit_fpn_backbone",
    "get_config",
    "get_config_file",
    "load_backbone",
    "load_pretrained",
    "load_weights",
]
