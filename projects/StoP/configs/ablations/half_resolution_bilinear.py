"""Targets at full and half resolution, resized bilinearly; no noise (Table 8, row 2). Paper: 52.1."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.0
model.half_resolution = "bilinear"
train.output_dir = "outputs/ablations/stop_half_resolution_bilinear"
