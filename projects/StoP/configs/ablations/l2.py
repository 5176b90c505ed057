"""No noise, but an l2 penalty on A (Sec. 4.3). Paper: StoP is 2.1 points better. The weight is ours."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.0
model.l2 = 1e-3
train.output_dir = "outputs/ablations/stop_l2"
