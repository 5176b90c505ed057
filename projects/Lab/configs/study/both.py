"""The study's recipe: the paper's proportions, small enough to pretrain a hundred times.

    tools/compare_pretraining.py --configs projects/Lab/configs/study/{both,neither}.py \
        --detector projects/Lab/configs/study/detector.py --images outputs/objects/unlabeled \
        --train-json outputs/scenes/annotations/instances_train.json --train-images outputs/scenes/train \
        --val-json outputs/scenes/annotations/instances_val.json --val-images outputs/scenes/val --output outputs/study

Pretraining images are from `compose_coco.py --preset objects`, one object that fills at least half of the side, as in
ImageNet; the detector's are from `--preset scenes`, many small objects. As in the paper, the field has 50/14 cells for
each patch of a global crop (28 for 8), and the detector's grid is about four times that of the crops (32 for 8; 64 for
14 in the paper). Heads, colour jitter and schedule are those of configs/pretrain/cropfield_tiny.py; with
batches of 64 images the learning rate peaks at 2e-3.
"""

from detectron2.config import LazyCall as L

from pretrain.data.augment import jitter_photometric

from .....configs.common.distillation import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.backbone.update(
    patch_size=8,
    embed_dim=192,
    depth=6,
    num_heads=3,
    field_size=28,
    field_init="centred_sincos",
    field_scale=0.3,
    drop_path_rate=0.0,
    layer_scale=0.1,
)
model.update(num_prototypes=256, head_hidden_dim=512, bottleneck_dim=128, koleo_weight=0.1, centering="sinkhorn")
model.momentum.start_value = 0.98

dataloader.train.crops.update(
    global_size=64,
    global_scale=(0.32, 1.0),
    local_size=24,
    local_scale=(0.05, 0.32),
    num_local=8,
    photometric=L(jitter_photometric)(),
)
dataloader.train.update(batch_size=64, num_workers=1)

weight_decay.end_value = 0.04
train.update(output_dir="outputs/study_both", max_iter=3000, base_lr=8e-3, log_period=50)
train.checkpointer.period = 250
train.monitor.period = 100
train.pictures.period = 0
train.knn.image_size = 128
