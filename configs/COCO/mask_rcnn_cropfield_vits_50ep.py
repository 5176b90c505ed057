"""Mask R-CNN, CropField ViT-S/16, 50 epochs of COCO (the paper reports 48.7 box AP and 43.3 mask AP)."""

from .mask_rcnn_cropfield_vitb_50ep import lr_multiplier  # noqa: F401
from .mask_rcnn_cropfield_vits_12ep import dataloader, dataset, model, optimizer, train  # noqa: F401

train.max_iter = 92200
