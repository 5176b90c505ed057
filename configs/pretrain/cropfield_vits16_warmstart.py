"""CropField from public weights: ViT-S/16 on one GPU and some 10,000 images of your own.

    tools/pretrain_net.py --config-file configs/pretrain/cropfield_vits16_warmstart.py \
        model.init=dinov2_vits14_pretrain.pth dataloader.train.source.root=DIR

10 epochs of 10,000 // 64 = 156 steps. `model.init` also takes files of MAE, DINO, DeiT, timm and this project; for one
of 14 x 14 positions (224 pixels) add model.backbone.field_size=14, which keeps its positions exactly.

The paper trains from scratch and gives no values for this: those below are this project's choice, tested only with the
tiny backbone, 200 steps from one trained with labels (k-NN 65): a tenth of the learning rate with a slow teacher keeps
62 to 64; the full rate with a fast teacher leaves 46, or 57 after a head warm-up of half the run.
"""

from ..common.distillation import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.init = ""
model.backbone.field_size = 37  # DINOv2's own grid: 518 / 14
model.num_prototypes = 8192  # 65,536 would be more than the images
model.koleo_weight = 0.1  # DINOv2's
# A slow teacher, with a time constant of 500 steps at first: a third of the run.
model.momentum.start_value = 0.998

dataloader.train.batch_size = 64

train.epochs = 10
train.base_lr = 2e-4  # a tenth of the recipe from scratch; 5e-5 at this batch size
train.head_warmup = 0.1  # one epoch: the heads learn on the frozen backbone
train.freeze_prototypes = 0.0  # the prototypes must learn while the backbone is frozen
lr_multiplier.warmup = 0.2  # the backbone joins at half the peak
weight_decay.end_value = 0.04  # 0.4 is for weights that grew under it
train.output_dir = "outputs/cropfield_vits16_warmstart"
