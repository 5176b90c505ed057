"""Noise on the positions of masked and context tokens (Table 7, row 3). Paper: 56.8."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_on = "both"
train.output_dir = "outputs/ablations/stop_noise_on_both"
