"""Mask R-CNN, CropField ViT-S/16, 50 epochs of COCO (the paper reports 48.7 box AP and 43.3 mask AP)."""

from ..common.detection import dataloader, dataset, optimizer, schedule, train  # noqa: F401
from ..common.mask_rcnn_cropfield import model

model.backbone.net.update(embed_dim=384, num_heads=6)  # ViT-S
optimizer.lr = 1e-4
train.max_iter, lr_multiplier = schedule(epochs=50)
