"""The study's row of Table 3 with the position loss alone."""

from .both import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.field_sampling = False
model.backbone.field_size = 8
