"""I-JEPA, ViT-H/14, ImageNet-1K, 300 epochs: the baseline of the second paper (Tables 1-4).

    tools/pretrain_net.py --config-file projects/StoP/configs/ijepa_vith14_in1k.py \
        dataloader.train.source.root=datasets/imagenet/train

300 epochs of 1,281,167 // 2,048 = 625 steps, the first 40 epochs warm-up. 224 pixels are 16 x 16 patches of 14.
Paper, linear probe: 62.9 with 1% of ImageNet's labels, 78.2 with all; last four layers 79.3.
"""

from .common.jepa import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.backbone.update(patch_size=14, embed_dim=1280, depth=32, num_heads=16, field_size=16)
model.predictor.update(depth=12, num_heads=16)
train.epochs = 300
lr_multiplier.warmup = 40 / 300
train.output_dir = "outputs/ijepa_vith14_in1k"
