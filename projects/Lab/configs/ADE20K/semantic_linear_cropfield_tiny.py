"""Linear segmentation small enough for two CPU cores: scenes of 128 x 128 pixels, backbone of configs/pretrain/*_tiny.

projects/Lab/tools/coco_to_semantic.py outputs/scenes --output outputs/semantic
tools/lazyconfig_train_net.py --config-file projects/Lab/configs/ADE20K/semantic_linear_cropfield_tiny.py \
    dataset.root=outputs/semantic dataset.classes=outputs/semantic/classes.txt \
    train.init_checkpoint=backbone.safetensors
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from cropfield.mapper import ResizeShortestEdge

from ..common.semantic import dataloader, dataset, lr_multiplier, model, optimizer, train

image_size = 128

model.backbone.net.patch_size = 8
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.backbone.net.field_size = 16
model.backbone.net.drop_path_rate = 0.0
model.backbone.net.square_pad = model.window = model.stride = image_size

dataloader.train.mapper.augmentations = [
    L(ResizeShortestEdge)(short_edge_length=(102, 160)),
    L(T.RandomCrop)(crop_type="absolute", crop_size=(image_size, image_size)),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.test.mapper.augmentations = [L(ResizeShortestEdge)(short_edge_length=image_size, max_size=4 * image_size)]
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 1
dataloader.test.num_workers = 1

optimizer.lr = 1e-3
optimizer.weight_decay = 1e-2
optimizer.fused = True

train.reference_batch_size = 8
train.max_iter = 300
train.eval_period = 0  # only at the end
train.checkpointer.period = 200
train.seed = 1
