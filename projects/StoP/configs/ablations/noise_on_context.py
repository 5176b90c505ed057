"""Noise on the positions of the context tokens only (Table 7, row 2). Paper: 55.1."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_on = "context"
train.output_dir = "outputs/ablations/stop_noise_on_context"
