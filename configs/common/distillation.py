"""What every self-distillation config starts from: the recipe of the first paper (Table 6) with ViT-S."""

import torch
from detectron2.config import LazyCall as L
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from fvcore.common.param_scheduler import CosineParamScheduler

from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.images import ImageFolder
from pretrain.data.masks import CropMasks
from pretrain.engine.devices import bf16_pays, default_device
from pretrain.engine.knn import OnlineKnn
from pretrain.engine.monitors import Monitor
from pretrain.engine.param_groups import param_groups
from pretrain.engine.pictures import PeriodicPictures
from pretrain.engine.schedules import warmup_cosine
from pretrain.engine.writers import ConsoleWriter
from pretrain.methods.distillation import SelfDistillation
from pretrain.models.vit import VisionTransformer

model = L(SelfDistillation)(
    trunk=L(VisionTransformer)(
        patch_size=16, embed_dim=384, depth=12, num_heads=6, field_size=50, drop_path_rate=0.1, layer_scale=1e-5
    ),
    field_sampling=True,
    position_loss=True,
    koleo_weight=1.0,
    centering="softmax",
    num_prototypes=65536,
    teacher_temp=0.04,
    momentum=L(CosineParamScheduler)(start_value=0.992, end_value=1.0),
    max_iter="${train.max_iter}",
)

dataloader = dict(
    train=L(CropLoader)(
        source=L(ImageFolder)(root="datasets/imagenet/train"),
        crops=L(MultiCrop)(
            global_size=224,
            global_scale=(0.32, 1.0),
            num_global=2,
            local_size=96,
            local_scale=(0.05, 0.32),
            num_local=8,
            scale_distribution="beta",
        ),
        masks=L(CropMasks)(
            grid=(14, 14),  # global_size / patch_size
            ratio=(0.1, 0.5),
            content_share=0.5,
            position_share=0.5,
            content_mask="box",
            position_mask="cross",
        ),
        batch_size=512,
        num_workers=8,
        seed="${train.seed}",
    )
)

optimizer = L(torch.optim.AdamW)(
    params=L(param_groups)(),  # of the model, which the tool fills in
    lr=None,  # None: train.base_lr * sqrt(batch size / 1024)
    betas=(0.9, 0.999),
    weight_decay=0.04,
    fused=True,
)
lr_multiplier = L(warmup_cosine)(peak="${optimizer.lr}", final=1e-6, warmup=0.1)  # 10 of 100 epochs
weight_decay = L(CosineParamScheduler)(start_value=0.04, end_value=0.4)

train = dict(
    output_dir="outputs/pretrain",
    epochs=100,
    max_iter=None,  # None: epochs * (images // batch size)
    base_lr=2e-3,
    freeze_prototypes=0.01,  # of training: one epoch of 100
    clip_grad=3.0,
    seed=0,
    device=default_device(),
    amp=dict(enabled=bf16_pays()),
    log_period=20,
    checkpointer=dict(period=1000),
    monitor=L(Monitor)(period=20, patience=0.1),
    pictures=L(PeriodicPictures)(period=1000),
    knn=L(OnlineKnn)(  # off until both are given: folders whose sub-folders are the classes
        train="",
        val="",
        untrained="${model.trunk}",
        period=1000,
        image_size=224,
        num_workers="${dataloader.train.num_workers}",
    ),
    writers=[  # W&B: train.writers.append(L(WandbWriter)(project="..."))
        L(ConsoleWriter)(max_iter="${train.max_iter}"),
        L(JSONWriter)(json_file="${train.output_dir}/metrics.json"),
        L(TensorboardXWriter)(log_dir="${train.output_dir}"),
    ],
)
