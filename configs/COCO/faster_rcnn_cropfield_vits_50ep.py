"""Faster R-CNN (boxes only), CropField ViT-S/16, 50 epochs of COCO: the 12-epoch schedule stretched in proportion."""

from .faster_rcnn_cropfield_vits_12ep import dataloader, dataset, model, optimizer, train  # noqa: F401
from .mask_rcnn_cropfield_vitb_50ep import lr_multiplier  # noqa: F401

train.max_iter = 92200
