"""Mask R-CNN, CropField ViT-B/16, 12 epochs of COCO (App. B.2; the paper reports 49.2 box AP and 43.8 mask AP).

tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_cropfield_vitb_12ep.py --num-gpus 8 \
    train.init_checkpoint=vitb16.pth train.output_dir=outputs/vitb_12ep
"""

from ..common.detection import dataloader, dataset, optimizer, schedule, train  # noqa: F401
from ..common.mask_rcnn_cropfield import model

optimizer.lr = 3e-4
train.max_iter, lr_multiplier = schedule(epochs=12)
