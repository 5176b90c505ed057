"""Noise on the positions of the context tokens only (Table 7, row 2). Paper: 55.1."""

from .stop import model, train

model.predictor.noise_on = "context"
train.output_dir = "outputs/ablations/stop_noise_on_context"
