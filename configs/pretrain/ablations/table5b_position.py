"""Table 5b, second row: every global crop has its positions masked, none its content. ViT-S/16.

    tools/pretrain_net.py --config-file configs/pretrain/ablations/table5b_position.py

Paper, after 12 epochs of COCO: 21.7 box AP, 20.7 mask AP; the default has 44.8 and 39.8.
"""

from ..cropfield_vits16_in1k_100ep import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.content_loss = False
dataloader.train.masks.update(content_share=0.0, position_share=1.0)
train.output_dir = "outputs/ablations/table5b_position"
