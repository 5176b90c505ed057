"""Linear segmentation, CropField ViT-B/16, 160k iterations of ADE20K (App. B.3; the paper reports 48.4 mIoU).

tools/lazyconfig_train_net.py --config-file projects/Lab/configs/ADE20K/semantic_linear_cropfield_vitb_160k.py \
    --num-gpus 8 train.init_checkpoint=vitb16.pth train.output_dir=outputs/ade20k_vitb

The paper reports the best of a sweep over lr and weight decay: projects/Lab/tools/sweep.py.
"""

from ..common.semantic import dataloader, dataset, lr_multiplier, model, optimizer, train

# One of the eight settings of the sweep; the paper does not report which was best.
optimizer.lr = 3e-5
optimizer.weight_decay = 1e-2

# 160,000 iterations x 16 images = 127 epochs of 20,210 images.
train.max_iter = 160000
train.eval_period = 16000
train.checkpointer = dict(period=8000, max_to_keep=2)
