"""StoP in the ablations: ViT-B/16, 300 epochs, learning rate 1e-3 (Table 9). The last row of Tables 6, 7 and 8.

300 epochs of 1,281,167 // 2,048 = 625 steps. Paper, linear probe with 1% of ImageNet's labels: 57.8.
"""

from ..stop_vitb16_in1k import dataloader, lr_multiplier, model, optimizer, train, weight_decay

train.epochs = 300
train.base_lr = 1e-3 / 2**0.5  # 1e-3 at 2,048 images
lr_multiplier.warmup = 15 / 300
train.output_dir = "outputs/ablations/stop"
