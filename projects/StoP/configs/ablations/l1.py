"""No noise, but an l1 penalty on A (Sec. 4.3). Paper: StoP is 2.0 points better. The weight is ours."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.0
model.l1 = 1e-5
train.output_dir = "outputs/ablations/stop_l1"
