"""Learned positions, in backbone and predictor, instead of sine-cosine ones (Table 6, row 2). Paper: 54.4."""

from .stop import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.0
model.backbone.update(learned_field=True, field_init="normal")
model.predictor.learned_positions = True
train.output_dir = "outputs/ablations/stop_learned_positions"
