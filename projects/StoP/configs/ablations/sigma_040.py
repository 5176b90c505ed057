"""Sigma 0.40 (Figs. 3 and 4, learned covariance)."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.40
train.output_dir = "outputs/ablations/stop_sigma_040"
