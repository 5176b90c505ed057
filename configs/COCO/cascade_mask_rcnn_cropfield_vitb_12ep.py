"""Cascade Mask R-CNN, CropField ViT-B/16, 12 epochs of COCO: the schedule of the Mask R-CNN (App. B.2).

The paper reports no figure for it.
"""

from ..common.cascade_mask_rcnn_cropfield import model  # noqa: F401
from .mask_rcnn_cropfield_vitb_12ep import dataloader, dataset, lr_multiplier, optimizer, train  # noqa: F401
