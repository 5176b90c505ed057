"""CropField for Detectron2: the pretrained trunk as a backbone."""

from cropfield.backbone import CropFieldFeaturePyramid, CropFieldViT

__all__ = ["CropFieldFeaturePyramid", "CropFieldViT"]
