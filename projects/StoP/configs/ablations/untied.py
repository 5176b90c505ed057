"""Noise through a matrix of its own, which training is free to shrink to nothing (Sec. 3); in no table of the paper."""

from .stop import model, train

model.predictor.covariance = "untied"
train.output_dir = "outputs/ablations/stop_untied"
