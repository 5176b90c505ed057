"""Table 4a, second row: scale s uniform on [0.2, 1]. ViT-S/16.

    tools/pretrain_net.py --config-file configs/pretrain/ablations/table4a_uniform.py

Paper, after 12 epochs of COCO: 43.7 box AP, 39.0 mask AP; the default has 44.8 and 39.8.
"""

from ..cropfield_vits16_in1k_100ep import dataloader, lr_multiplier, model, optimizer, train, weight_decay

dataloader.train.crops.scale_distribution = "uniform"
train.output_dir = "outputs/ablations/table4a_uniform"
