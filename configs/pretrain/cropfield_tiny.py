"""CropField at a size that two CPU cores train in minutes: scenes of 128 pixels, patches of 8, 6 blocks of width 192.

    tools/pretrain_net.py --config-file configs/pretrain/cropfield_tiny.py dataloader.train.source.root=DIR

The paper's recipe with all sizes scaled down. Local crops cover smaller parts of the image than in the paper, so that
objects keep about the size that the detector sees; colours are only jittered: a backbone that ignores colour detects
worse after such short fine-tuning. LayerScale starts at 0.1, because 1e-5 needs far more steps to grow, and the field
at an rms of 0.1, because a normal one of 0.02 is not read: from larger values of either a detector starts badly
(docs/results.md, "Which start").
"""

from detectron2.config import LazyCall as L

from pretrain.data.augment import jitter_photometric

from ..common.distillation import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.backbone.update(
    patch_size=8,
    embed_dim=192,
    depth=6,
    num_heads=3,
    field_size=16,
    field_init="centred_sincos",
    field_scale=0.3,
    drop_path_rate=0.0,
    layer_scale=0.1,
)
model.update(num_prototypes=256, head_hidden_dim=512, bottleneck_dim=128, koleo_weight=0.1, centering="sinkhorn")
model.momentum.start_value = 0.95

dataloader.train.crops.update(
    global_size=96,
    global_scale=(0.3, 1.0),
    local_size=32,
    local_scale=(0.03, 0.2),
    num_local=4,
    photometric=L(jitter_photometric)(),
)
dataloader.train.update(batch_size=16, num_workers=1)

weight_decay.end_value = 0.04
train.update(output_dir="outputs/cropfield_tiny", max_iter=500, base_lr=1.6e-2, log_period=20)
train.checkpointer.period = 100
train.pictures.period = 100
train.knn.image_size = 128
train.detection_probe.update(period=200, image_size=128)
