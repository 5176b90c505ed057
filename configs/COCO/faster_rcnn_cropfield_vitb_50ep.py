"""Faster R-CNN (boxes only), CropField ViT-B/16, 50 epochs of COCO: the 12-epoch schedule stretched in proportion."""

from ..common.detection import optimizer, schedule, train
from ..common.faster_rcnn_cropfield import dataloader, dataset, model  # noqa: F401

optimizer.lr = 3e-4
train.max_iter, lr_multiplier = schedule(epochs=50)
