"""Fixed sine-cosine positions: I-JEPA. First row of Tables 6, 7 and 8, sigma 0 of Figs. 3 and 4. Paper: 54.3."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.0
train.output_dir = "outputs/ablations/stop_sincos"
