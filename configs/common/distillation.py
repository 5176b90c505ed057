"""Base of all self-distillation configs: the recipe of the CropField paper for ImageNet-1K, with ViT-S.

Comments give the source of each value. T6: the paper's Table 6, for both ViT-S and ViT-B. Otherwise a section. Where
the paper is silent, DINOv2: the value of its ImageNet-1K recipe (App. B.1 follows it). Ours: neither gives one.
Not configurable: no layer-wise and no patch-embedding decay of the learning rate (T6),
separate heads (T6), prototypes of unit norm (T6: "norm. last layer").

Minor differences from DINOv2's release:

    drop path      drawn for each crop. There int(B * (1 - rate)) of the B crops of a size keep a branch.
    local crops    without field sampling, 6 patches are sampled 14 / 6 cells apart. There 14 / 6.1: interpolate_offset.
    warm-up        step i of W has i / W of the peak. There i / (W - 1), so the peak is reached a step early, and twice.
    content masks  a block that would fill whole rows or columns is made one patch shorter. There it is redrawn, and
                   a mask may end a few patches below its count.

The images, on the command line or in a config (`dataloader.train.source.root = ...`):

    dataloader.train.source.root=DIR                                      a folder, at any depth
    dataloader.train.source.root=1percent.txt dataloader.train.source.images=DIR         a list of files in DIR
    dataloader.train.source.root=instances.json dataloader.train.source.images=DIR       a COCO file's images in DIR
    'dataloader.train.source.root="shards/train-{000000..000146}.tar"'    tar shards; shards/*.tar needs no quotes
    'dataloader.train.source.root=[DIR,other/*/images]'                   several of them, and patterns

Any other `pretrain.data.batches.ImageSource`, in a config:

    from ..common.distillation import dataloader, lr_multiplier, model, optimizer, train, weight_decay
    dataloader.train.source = L(MySource)(...)
"""

import torch
from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from pretrain.data.augment import dinov2_photometric
from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.images import open_source
from pretrain.data.masks import CropMasks, square_grid
from pretrain.engine.devices import default_device
from pretrain.engine.param_groups import param_groups
from pretrain.engine.schedules import warmup_cosine
from pretrain.methods.distillation import SelfDistillation
from pretrain.models.vit import VisionTransformer

from .pretraining import train

model = L(SelfDistillation)(
    backbone=L(VisionTransformer)(
        patch_size=16,  # Sec. 4
        embed_dim=384,
        depth=12,
        num_heads=6,
        field_size=50,  # T6: 50 x 50
        drop_path_rate=0.1,  # T6: linear over the blocks, [0, 0.1]
        layer_scale=1e-5,  # DINOv2
        in_chans=3,  # bands of an image, 1 to 12; other than RGB need image_mean and image_std below
    ),
    field_sampling=True,  # Sec. 3.2
    position_loss=True,  # Eq. 4
    koleo_weight=1.0,  # Sec. 3.4; DINOv2's is 0.1
    centering="softmax",  # DINOv2
    num_prototypes=65536,  # T6: output dim of all heads
    head_hidden_dim=2048,  # DINOv2
    bottleneck_dim=256,  # DINOv2
    student_temp=0.1,  # DINOv2
    teacher_temp=0.04,  # T6: constant
    centre_momentum=0.9,  # DINOv2
    momentum=L(CosineParamScheduler)(start_value=0.992, end_value=1.0),  # T6; its end is DINOv2's
    max_iter="${train.max_iter}",
    image_mean=None,  # of the pixels, a number for each band; None: ImageNet's
    image_std=None,
)

dataloader = dict(
    train=L(CropLoader)(
        source=L(open_source)(
            root="datasets/imagenet/train",
            channels="${oc.select:model.backbone.in_chans,3}",
            value_range=None,  # of files of more than 8 bits: what becomes 0 and 255, such as [0, 4095]
        ),
        crops=L(MultiCrop)(  # numbers and sizes: Sec. 4.1; the rest DINOv2's
            global_size=224,
            global_scale=(0.32, 1.0),
            num_global=2,
            local_size=96,
            local_scale=(0.05, 0.32),
            num_local=8,
            flip_field=True,  # ours (the paper does not say): a flipped crop reads the field mirrored
            scale_distribution="beta",  # T6: s = 0.2 + (1 - 0.2) Beta(2, 5)
            photometric=L(dinov2_photometric)(blur="effect"),
            channels="${oc.select:model.backbone.in_chans,3}",  # other than RGB: no saturation, hue and grey
        ),
        masks=L(CropMasks)(
            grid=L(square_grid)(
                size="${dataloader.train.crops.global_size}",
                patch_size="${model.backbone.patch_size}",
            ),
            ratio=(0.1, 0.5),  # T6, for both kinds
            content_share=0.5,  # T6: 50% content, 50% position
            position_share=0.5,
            content_mask="box",  # T6
            position_mask="cross",  # T6
        ),
        batch_size=512,  # T6; over all processes
        num_workers=8,
        seed="${train.seed}",
        pin_memory=default_device() == "cuda",
    )
)

optimizer = L(torch.optim.AdamW)(  # T6
    params=L(param_groups)(),  # the tool adds the model; weight decay groups are DINOv2's
    lr=None,  # None: train.base_lr * sqrt(batch size / 1024), DINOv2's rule
    betas=(0.9, 0.999),  # DINOv2
    weight_decay=0.04,
    fused=True,
)
lr_multiplier = L(warmup_cosine)(  # fractions of training, so they scale with its length
    peak="${optimizer.lr}",
    final=1e-6,  # DINOv2
    warmup=0.1,  # T6: 10 of 100 epochs
)
weight_decay = L(CosineParamScheduler)(start_value=0.04, end_value=0.4)  # T6

train.update(
    epochs=100,  # T6
    base_lr=2e-3,  # T6; reached at a batch size of 1024 (DINOv2's reading of "base")
    freeze_prototypes=0.01,  # one epoch of 100 (DINOv2)
    clip_grad=3.0,  # DINOv2
)
