"""Faster R-CNN (boxes only), CropField ViT-B/16, 12 epochs of COCO: the schedule of the Mask R-CNN (App. B.2).

The paper reports no figure for it.
"""

from ..common.detection import optimizer, schedule, train
from ..common.faster_rcnn_cropfield import dataloader, dataset, model  # noqa: F401

optimizer.lr = 3e-4
train.max_iter, lr_multiplier = schedule(epochs=12)
