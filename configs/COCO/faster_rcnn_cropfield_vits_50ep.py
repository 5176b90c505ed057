"""Faster R-CNN (boxes only), CropField ViT-S/16, 50 epochs of COCO: the 12-epoch schedule stretched in proportion."""

from ..common.detection import optimizer, schedule, train
from ..common.faster_rcnn_cropfield import dataloader, dataset, model  # noqa: F401

model.backbone.net.update(embed_dim=384, num_heads=6)  # ViT-S
optimizer.lr = 1e-4
train.max_iter, lr_multiplier = schedule(epochs=50)
