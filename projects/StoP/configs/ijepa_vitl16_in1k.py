"""I-JEPA, ViT-L/16, ImageNet-1K, 600 epochs: the baseline of the second paper (Tables 1-5).

    tools/pretrain_net.py --config-file projects/StoP/configs/ijepa_vitl16_in1k.py \
        dataloader.train.source.root=datasets/imagenet/train

600 epochs of 1,281,167 // 2,048 = 625 steps. Learning rate 1e-3, I-JEPA's (the paper says its own is "usually" lower).
Paper, linear probe: 64.2 with 1% of ImageNet's labels, 76.1 with all; last four layers 77.5.
"""

from .common.jepa import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.backbone.update(embed_dim=1024, depth=24, num_heads=16)
model.predictor.update(depth=12, num_heads=16)
train.output_dir = "outputs/ijepa_vitl16_in1k"
