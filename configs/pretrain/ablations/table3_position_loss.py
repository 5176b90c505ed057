"""Table 3, third row: masked position prediction alone. ViT-S/16.

    tools/pretrain_net.py --config-file configs/pretrain/ablations/table3_position_loss.py

Without sampling, positions are the usual 14 x 14: see dinov2_vits16_in1k_100ep.py.
Paper, after 12 epochs of COCO: 43.7 box AP, 39.1 mask AP; the default has 44.8 and 39.8.
"""

from ..cropfield_vits16_in1k_100ep import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.field_sampling = False
model.backbone.field_size = 14
train.output_dir = "outputs/ablations/table3_position_loss"
