"""Table 3, first row: neither position field sampling nor masked position prediction. ViT-S/16.

    tools/pretrain_net.py --config-file configs/pretrain/ablations/table3_neither.py

Half of the global crops stay unmasked. Without sampling, positions are the usual 14 x 14. The paper gives DINOv2†
another result (Table 1b: 41.9) and does not say what differs; dinov2_vits16_in1k_100ep.py differs in KoLeo's weight.
Paper, after 12 epochs of COCO: 41.3 box AP, 37.2 mask AP; the default has 44.8 and 39.8.
"""

from ..cropfield_vits16_in1k_100ep import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.update(field_sampling=False, position_loss=False)
model.backbone.field_size = 14
train.output_dir = "outputs/ablations/table3_neither"
