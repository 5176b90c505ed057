"""Mask R-CNN, CropField ViT-S/16, 12 epochs of COCO (App. B.2; the paper reports 44.8 box AP and 39.8 mask AP)."""

from .mask_rcnn_cropfield_vitb_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train  # noqa: F401

model.backbone.net.embed_dim = 384
model.backbone.net.num_heads = 6

optimizer.lr = 1e-4
