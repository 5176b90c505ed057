"""Overrides for a graphics card with the given number of GB. Batch size, schedule and image size stay the recipe's.

    tools/lazyconfig_train_net.py --card 8 --config-file configs/COCO/mask_rcnn_cropfield_vitb_12ep.py

Your own overrides are applied after the preset's.
"""

RECOMPUTE = "model.backbone.net.activation_checkpointing=True"
PRESETS = {
    8: (RECOMPUTE, "train.images_per_gpu=1"),
    16: (RECOMPUTE, "train.images_per_gpu=4"),
    24: (RECOMPUTE, "train.images_per_gpu=8"),
}
