"""The study's row of Table 3 with field sampling alone."""

from .both import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.position_loss = False
