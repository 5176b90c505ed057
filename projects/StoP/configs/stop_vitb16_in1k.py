"""StoP, ViT-B/16, ImageNet-1K, 600 epochs (Table 10).

    tools/pretrain_net.py --config-file projects/StoP/configs/stop_vitb16_in1k.py \
        dataloader.train.source.root=datasets/imagenet/train

600 epochs of 1,281,167 // 2,048 = 625 steps.
Paper, linear probe: 60.3 with 1% of ImageNet's labels, 72.6 with all; last four layers 74.5.
"""

from .ijepa_vitb16_in1k import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.25
train.base_lr = 8e-4 / 2**0.5  # 8e-4 at 2,048 images
train.output_dir = "outputs/stop_vitb16_in1k"
