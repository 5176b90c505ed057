"""DINOv2 at the tiny size: `cropfield_tiny.py` without its two additions, the baseline to compare with.

python tools/pretrain_net.py --config-file configs/pretrain/dinov2_tiny.py dataloader.train.source.root=DIR
"""

from .cropfield_tiny import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.field_sampling = False
model.position_loss = False
train.output_dir = "outputs/dinov2_tiny"
