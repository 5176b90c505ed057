"""The study's first row of Table 3, DINOv2: one position for each of a global crop's 8 x 8 patches, no position
loss.
"""

from .both import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.field_sampling = False
model.position_loss = False
model.backbone.field_size = 8
