"""Cascade Mask R-CNN, CropField ViT-B/16, 50 epochs of COCO: the 12-epoch schedule stretched in proportion."""

from .cascade_mask_rcnn_cropfield_vitb_12ep import dataloader, dataset, model, optimizer, train  # noqa: F401
from .mask_rcnn_cropfield_vitb_50ep import lr_multiplier  # noqa: F401

train.max_iter = 92200
