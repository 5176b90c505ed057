"""The study's detector: the tiny Mask R-CNN on scenes of 256 pixels, a grid of 32 x 32 patches."""

from .....configs.COCO.mask_rcnn_cropfield_tiny import dataloader, dataset, model, optimizer, train
from .....configs.common.detection import step_schedule

dataloader.image_size = 256
model.backbone.net.field_size = 28
train.max_iter = 300
lr_multiplier = step_schedule(train.max_iter, milestones=[240, 280], warmup=30)
