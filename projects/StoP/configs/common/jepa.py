"""Base of all I-JEPA and StoP configs: I-JEPA's recipe with ViT-B/16, as used in the second paper.

Values that Tables 9-12 do not give are I-JEPA's: crops (area 0.3-1, no flip, no colour jitter), masks, the teacher's
momentum, the learning rate at both ends; no LayerScale, stochastic depth or clipping.
"""

import torch
from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler, LinearParamScheduler

from pretrain.data.augment import no_photometric
from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.images import open_source
from pretrain.data.masks import square_grid
from pretrain.engine.devices import default_device
from pretrain.engine.param_groups import param_groups
from pretrain.engine.schedules import warmup_cosine
from pretrain.models.vit import VisionTransformer
from stop.jepa import JEPA
from stop.masks import MultiBlockMasks
from stop.predictor import Predictor

from .....configs.common.pretraining import train

model = L(JEPA)(
    backbone=L(VisionTransformer)(
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        field_size=14,  # crop size / patch size
        field_init="sincos",
        learned_field=False,
        class_token=False,
        layer_scale=None,
        in_chans=3,
    ),
    predictor=L(Predictor)(
        backbone_dim="${model.backbone.embed_dim}",
        embed_dim=384,
        depth=6,
        num_heads=12,
        field_size="${model.backbone.field_size}",
        learned_positions=False,
        noise_std=0.0,  # sigma: 0 is I-JEPA
        noise_on="masked",
        covariance="learned",
        noise_convention="std",
        shared_bias=False,
    ),
    half_resolution=None,
    l1=0.0,
    l2=0.0,
    momentum=L(LinearParamScheduler)(start_value=0.996, end_value=1.0),
    max_iter="${train.max_iter}",
    image_mean=None,
    image_std=None,
)

dataloader = dict(
    train=L(CropLoader)(
        source=L(open_source)(
            root="datasets/imagenet/train", channels="${oc.select:model.backbone.in_chans,3}", value_range=None
        ),
        crops=L(MultiCrop)(
            global_size=224,
            global_scale=(0.3, 1.0),
            num_global=1,
            num_local=0,
            flip=0.0,
            scale_distribution="off",
            photometric=L(no_photometric)(),
            channels="${oc.select:model.backbone.in_chans,3}",
        ),
        masks=L(MultiBlockMasks)(
            grid=L(square_grid)(
                size="${dataloader.train.crops.global_size}",
                patch_size="${model.backbone.patch_size}",
            ),
            num_targets=4,
            target_area=(0.15, 0.2),
            target_aspect=(0.75, 1.5),
            context_area=(0.85, 1.0),
            context_aspect=(1.0, 1.0),
            min_keep=10,
            group_size=64,  # images with contexts of equal length; I-JEPA's release: 128
            off_by_one=False,
            one_number=False,
        ),
        batch_size=2048,
        num_workers=8,
        seed="${train.seed}",
        pin_memory=default_device() == "cuda",
    )
)

optimizer = L(torch.optim.AdamW)(
    params=L(param_groups)(),  # the tool adds the model
    lr=None,  # None: train.base_lr * sqrt(batch size / 1024)
    betas=(0.9, 0.999),
    weight_decay=0.04,
    fused=True,
)
lr_multiplier = L(warmup_cosine)(start=1e-4, peak="${optimizer.lr}", final=1e-6, warmup=15 / 600)
weight_decay = L(CosineParamScheduler)(start_value=0.04, end_value=0.4)

train.update(
    output_dir="outputs/jepa",
    epochs=600,
    base_lr=1e-3 / 2**0.5,  # 1e-3 at 2,048 images
)
