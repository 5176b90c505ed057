"""Mask R-CNN, CropField ViT-B/16, 50 epochs of COCO: the 12-epoch schedule stretched in proportion."""

from ..common.detection_optim import step_schedule
from .mask_rcnn_cropfield_vitb_12ep import dataloader, dataset, model, optimizer, train  # noqa: F401

# 22,128 iterations x 50/12 = 92,200; x 0.1 at the same shares of it.
train.max_iter = 92200
lr_multiplier = step_schedule(train.max_iter, milestones=[81946, 88775], warmup=250)
