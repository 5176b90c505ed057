"""DINOv2 at the tiny size: the baseline of `cropfield_tiny.py`, without its two additions.

tools/pretrain_net.py --config-file configs/pretrain/dinov2_tiny.py dataloader.train.source.root=DIR

Without sampling, positions are one vector for each of a global crop's 12 x 12 patches: see dinov2_vits16_in1k_100ep.py.
"""

from .cropfield_tiny import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.field_sampling = False
model.position_loss = False
model.backbone.field_size = 12
train.output_dir = "outputs/dinov2_tiny"
