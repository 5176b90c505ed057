"""Targets at full and half resolution, max pooled; no noise (Table 8, row 3). Paper: 54.1."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.0
model.half_resolution = "max"
train.output_dir = "outputs/ablations/stop_half_resolution_max"
