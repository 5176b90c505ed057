"""Faster R-CNN (boxes only), CropField ViT-B/16, 12 epochs of COCO: the schedule of the Mask R-CNN (App. B.2).

The paper reports no figure for it.
"""

from ..common.faster_rcnn_cropfield import dataloader, dataset, model  # noqa: F401
from .mask_rcnn_cropfield_vitb_12ep import lr_multiplier, optimizer, train  # noqa: F401
