"""CropField, ViT-B/16, ImageNet-1K, 100 epochs.

    tools/pretrain_net.py --config-file configs/pretrain/cropfield_vitb16_in1k_100ep.py \
        dataloader.train.source.root=datasets/imagenet/train

"Self-supervised learning of intertwined content and positional features for object detection", Table 6: all values as
for ViT-S. Paper, after 12 epochs of COCO (Table 1a): 49.2 box AP, 43.8 mask AP. It trained on 8 A6000.

Length: 100 epochs * (1,281,167 images // 512) = 100 * 2,502 = 250,200 steps; warm-up 25,020; prototypes frozen 2,502.
Learning rate: 2e-3 * sqrt(512 / 1024) = 1.41e-3. Another batch size changes both by these rules, and the log says so.
Cost, computed (docs/cost.md): 436 GFLOP an image, 223 TFLOP a step, 5.59e19 FLOP in all; at the speed measured
on one H100, 50 GPU-hours.
"""

from ..common.distillation import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.backbone.embed_dim = 768
model.backbone.num_heads = 12
train.output_dir = "outputs/cropfield_vitb16_in1k_100ep"
