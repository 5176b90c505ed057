"""DINOv2 on ImageNet-1K, the paper's baseline "DINOv2†": CropField without its two additions. ViT-B/16.

    tools/pretrain_net.py --config-file configs/pretrain/dinov2_vitb16_in1k_100ep.py \
        dataloader.train.source.root=datasets/imagenet/train

Paper, after 12 epochs of COCO (Table 1a): 47.7 box AP, 42.4 mask AP.
Fine-tune it with model.backbone.net.field_size=14.

Its position embeddings are DINOv2's: one vector for each of a global crop's 14 x 14 patches. If all crops read a field
of 50 x 50 whole, they would train little of it but the cells under those 14 x 14 centres; a detector, which reads it on
a finer grid, would find next to nothing between them. KoLeo has DINOv2's weight: the paper names 1 for its own loss.

Length and learning rate: as cropfield_vitb16_in1k_100ep.py, 250,200 steps and 1.41e-3. Cost, computed and not measured
(formula in docs/cost.md): 423 GFLOP an image, 217 TFLOP a step, 5.42e19 FLOP.
"""

from .cropfield_vitb16_in1k_100ep import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.update(field_sampling=False, position_loss=False, koleo_weight=0.1)
model.backbone.field_size = 14
train.output_dir = "outputs/dinov2_vitb16_in1k_100ep"
