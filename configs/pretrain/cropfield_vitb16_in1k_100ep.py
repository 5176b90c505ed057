"""CropField, ViT-B/16, ImageNet-1K, 100 epochs (Table 6).

    python tools/pretrain_net.py --config-file configs/pretrain/cropfield_vitb16_in1k_100ep.py \
        dataloader.train.source.root=datasets/imagenet/train

100 epochs of 1,281,167 // 512 = 2,502 steps. Paper, after 12 epochs of COCO: 49.2 box AP, 43.8 mask AP.
"""

from ..common.distillation import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.trunk.embed_dim = 768
model.trunk.num_heads = 12
train.output_dir = "outputs/cropfield_vitb16_in1k_100ep"
