"""Noise through a separate matrix, which training can shrink to zero (Sec. 3); in no table of the paper."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.covariance = "untied"
train.output_dir = "outputs/ablations/stop_untied"
