"""CropField at a size that two CPU cores train in minutes: small scenes, patches of 8, 6 blocks of 192.

    python tools/pretrain_net.py --config-file configs/pretrain/cropfield_tiny.py dataloader.train.source.root=DIR

The paper's recipe with the sizes scaled down, a shorter and hotter schedule, and a larger initial LayerScale:
1e-5 needs far more steps than there are here.
"""

from ..common.distillation import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.trunk.update(
    patch_size=8, embed_dim=192, depth=6, num_heads=3, field_size=16, drop_path_rate=0.0, layer_scale=0.1
)
model.update(num_prototypes=2048, head_hidden_dim=512, bottleneck_dim=128, koleo_weight=0.1)
model.momentum.start_value = 0.98

dataloader.train.crops.update(global_size=96, local_size=48, num_local=4)
dataloader.train.masks.grid = (12, 12)
dataloader.train.update(batch_size=32, num_workers=1)

lr_multiplier.warmup = 0.05
weight_decay.end_value = 0.04
train.update(
    output_dir="outputs/cropfield_tiny", max_iter=1200, base_lr=4e-3, log_period=20, checkpointer=dict(period=200)
)
