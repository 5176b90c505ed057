"""Faster R-CNN (boxes only), CropField ViT-S/16, 12 epochs of COCO: the schedule of the Mask R-CNN (App. B.2).

The paper reports no figure for it.
"""

from .faster_rcnn_cropfield_vitb_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train  # noqa: F401

model.backbone.net.embed_dim = 384
model.backbone.net.num_heads = 6

optimizer.lr = 1e-4
