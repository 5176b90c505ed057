"""A Mask R-CNN small enough for two CPU cores: scenes of 128 x 128 pixels, ViT 6 x 192 with patches of 8.

tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_cropfield_tiny.py \
    dataset.train_json=... dataset.train_images=... dataset.val_json=... dataset.val_images=...
"""

from ..common.detection import dataloader, dataset, optimizer, step_schedule, train  # noqa: F401
from ..common.mask_rcnn_cropfield import model

dataloader.image_size = 128
channels = 96

# The backbone of configs/pretrain/cropfield_tiny.py.
model.backbone.net.patch_size = 8
model.backbone.net.embed_dim = 192
model.backbone.net.depth = 6
model.backbone.net.num_heads = 3
model.backbone.net.field_size = 16
model.backbone.net.drop_path_rate = 0.0

# Two levels, strides 8 and 16: objects of 20 to 100 pixels.
levels = ["p3", "p4"]
scales = (1 / 8, 1 / 16)
model.backbone.out_channels = channels
model.backbone.scale_factors.strides = [8, 16]
model.backbone.top_block = None

rpn = model.proposal_generator
rpn.in_features = levels
rpn.head.in_channels = channels
rpn.head.conv_dims = [-1]
rpn.anchor_generator.sizes = [[32], [64]]
rpn.anchor_generator.strides = [8, 16]
rpn.batch_size_per_image = 64
rpn.pre_nms_topk = (100, 100)
rpn.post_nms_topk = (64, 50)

# With the usual 512 regions an image a CPU would spend most of its time on them: use few, with one sample a cell.
roi = model.roi_heads
roi.batch_size_per_image = 32
roi.box_in_features = roi.mask_in_features.features = levels
for pooler in (roi.box_pooler, roi.mask_pooler):
    pooler.scales = scales
    pooler.sampling_ratio = 1
    pooler.canonical_box_size, pooler.canonical_level = 64, 4
roi.box_head.input_shape.channels = roi.mask_head.input_shape.channels = channels
roi.box_head.conv_dims = []
roi.box_head.fc_dims = [256]
roi.box_predictor.input_shape.channels = 256
roi.mask_head.conv_dims = [channels, channels]

dataloader.train.mapper.augmentations[1].update(min_scale=0.8, max_scale=1.25)
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 1
dataloader.test.num_workers = 1

optimizer.lr = 1e-3
optimizer.fused = True
optimizer.params.lr_factor_func.rate = 0.8

# 150 iterations x 8 images = 1.2 epochs of 1,000 images.
train.reference_batch_size = 8
train.max_iter = 150
lr_multiplier = step_schedule(train.max_iter, milestones=[120, 140], warmup=15)
train.eval_period = 0  # only at the end
train.checkpointer.period = 200
train.seed = 1
