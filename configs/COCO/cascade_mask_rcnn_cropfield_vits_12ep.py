"""Cascade Mask R-CNN, CropField ViT-S/16, 12 epochs of COCO: the schedule of the Mask R-CNN (App. B.2).

The paper reports no figure for it.
"""

from ..common.cascade_mask_rcnn_cropfield import model
from ..common.detection import dataloader, dataset, optimizer, schedule, train  # noqa: F401

model.backbone.net.update(embed_dim=384, num_heads=6)  # ViT-S
optimizer.lr = 1e-4
train.max_iter, lr_multiplier = schedule(epochs=12)
