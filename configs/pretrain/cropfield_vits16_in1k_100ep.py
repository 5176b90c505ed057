"""CropField, ViT-S/16, ImageNet-1K, 100 epochs.

    tools/pretrain_net.py --config-file configs/pretrain/cropfield_vits16_in1k_100ep.py \
        dataloader.train.source.root=datasets/imagenet/train

"Self-supervised learning of intertwined content and positional features for object detection", Table 6.
Paper, after 12 epochs of COCO (Table 1b): 44.8 box AP, 39.8 mask AP. It trained on 4 A6000.

Length: 100 epochs * (1,281,167 images // 512) = 100 * 2,502 = 250,200 steps; warm-up 25,020; prototypes frozen 2,502.
Learning rate: 2e-3 * sqrt(512 / 1024) = 1.41e-3. Another batch size changes both by these rules, and the log says so.
Cost, computed (docs/cost.md): 130 GFLOP an image, 66 TFLOP a step, 1.66e19 FLOP in all; at the speed measured
on one H100, 41 GPU-hours.
"""

from ..common.distillation import dataloader, lr_multiplier, model, optimizer, train, weight_decay

train.output_dir = "outputs/cropfield_vits16_in1k_100ep"
