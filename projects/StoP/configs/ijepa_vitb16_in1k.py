"""I-JEPA, ViT-B/16, ImageNet-1K, 600 epochs: the baseline of the second paper (Tables 1-5).

    tools/pretrain_net.py --config-file projects/StoP/configs/ijepa_vitb16_in1k.py \
        dataloader.train.source.root=datasets/imagenet/train

600 epochs of 1,281,167 // 2,048 = 625 steps. Learning rate 1e-3, I-JEPA's (the paper says its own is "usually" lower).
Paper, linear probe: 57.1 with 1% of ImageNet's labels, 70.9 with all; last four layers 72.9.
"""

from .common.jepa import dataloader, lr_multiplier, model, optimizer, train, weight_decay

train.output_dir = "outputs/ijepa_vitb16_in1k"
