"""StoP in the ablations: ViT-B/16, 300 epochs, learning rate 1e-3 (Table 9). The last row of Tables 6, 7 and 8.

300 epochs of 1,281,167 // 2,048 = 625 steps. Paper, linear probe with 1% of ImageNet's labels: 57.8.
"""

from ..common.jepa import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.25
train.epochs = 300
lr_multiplier.warmup = 15 / 300
train.output_dir = "outputs/ablations/stop"
