"""Large-scale jitter to 1024 x 1024 pixels, as in ViTDet: scale 0.1 to 2, then a crop or a pad."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco_dataset import dataloader, dataset  # noqa: F401

image_size = 1024
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=image_size, target_width=image_size),
    L(T.FixedSizeCrop)(crop_size=(image_size, image_size), pad=False),
]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=image_size, max_size=image_size)]
dataloader.train.total_batch_size = 64
