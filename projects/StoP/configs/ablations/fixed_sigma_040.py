"""Fixed covariance sigma^2 I, sigma 0.40 (Fig. 3)."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.40
model.predictor.covariance = "fixed"
train.output_dir = "outputs/ablations/stop_fixed_sigma_040"
