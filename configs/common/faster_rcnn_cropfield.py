"""Faster R-CNN with the same backbone and pyramid: boxes only, even if the dataset has masks."""

from .detection import dataloader, dataset  # noqa: F401
from .mask_rcnn_cropfield import model

for name in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(name)
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.recompute_boxes = False
dataloader.evaluator.tasks = ("bbox",)
