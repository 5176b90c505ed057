"""Sigma 0.40 (Figs. 3 and 4, learned covariance)."""

from .stop import model, train

model.predictor.noise_std = 0.40
train.output_dir = "outputs/ablations/stop_sigma_040"
