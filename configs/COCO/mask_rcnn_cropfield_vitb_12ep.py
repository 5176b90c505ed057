"""Mask R-CNN, CropField ViT-B/16, 12 epochs of COCO (App. B.2; the paper reports 49.2 box AP and 43.8 mask AP).

tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_cropfield_vitb_12ep.py --num-gpus 8 \
    train.init_checkpoint=vitb16.pth train.output_dir=outputs/vitb_12ep
"""

from ..common.coco_lsj import dataloader, dataset  # noqa: F401
from ..common.detection_optim import optimizer, step_schedule, train
from ..common.mask_rcnn_cropfield import model  # noqa: F401

optimizer.lr = 3e-4

# 22,128 iterations x 64 images = 12.0 epochs of 118,000 images; x 0.1 after 8/9 and 26/27 of them.
train.max_iter = 22128
lr_multiplier = step_schedule(train.max_iter, milestones=[19667, 21306], warmup=250)
