"""Mask R-CNN, CropField ViT-S/16, 12 epochs of COCO (App. B.2; the paper reports 44.8 box AP and 39.8 mask AP)."""

from ..common.detection import dataloader, dataset, optimizer, schedule, train  # noqa: F401
from ..common.mask_rcnn_cropfield import model

model.backbone.net.update(embed_dim=384, num_heads=6)  # ViT-S
optimizer.lr = 1e-4
train.max_iter, lr_multiplier = schedule(epochs=12)
