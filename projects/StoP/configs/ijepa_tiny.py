"""I-JEPA at a size that two CPU cores train in minutes: crops of 96 pixels, patches of 8, 6 blocks of width 192.

    tools/pretrain_net.py --config-file projects/StoP/configs/ijepa_tiny.py dataloader.train.source.root=DIR

The backbone of cropfield_tiny.py without class token, on a grid of 12 x 12, and like it with a LayerScale of 0.1 and
weak positions: from I-JEPA's start a detector of so few iterations finds next to nothing (docs/results.md, "Which
start"). Because training is short, the learning rate is low and the teacher slow: with base_lr=8e-3 the rank of StoP's
features falls.
"""

from .common.jepa import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.backbone.update(
    patch_size=8, embed_dim=192, depth=6, num_heads=3, field_size=12, field_scale=0.3, layer_scale=0.1
)
model.predictor.update(embed_dim=96, depth=3, num_heads=3)
model.momentum.start_value = 0.998

dataloader.train.crops.global_size = 96
dataloader.train.update(batch_size=16, num_workers=1)

lr_multiplier.update(start=0.0, warmup=0.1)
weight_decay.end_value = 0.04
train.update(output_dir="outputs/ijepa_tiny", max_iter=1000, base_lr=2e-3, log_period=20)
train.checkpointer.period = 100
