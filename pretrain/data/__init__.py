"""Image sources, crops with their boxes, photometric augmentation, masks, batches."""

# ImageNet statistics in RGB on the 0..255 scale; every backbone of this project is trained with them.
IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)
