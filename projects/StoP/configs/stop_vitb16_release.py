"""StoP, ViT-B/16, with the settings in which its release differs from the paper; not measured here.

    tools/pretrain_net.py --config-file projects/StoP/configs/stop_vitb16_release.py \
        dataloader.train.source.root=datasets/imagenet/train

projects/StoP/configs/ablations/README.md explains each line. For ViT-L, apply the same lines to stop_vitl16_in1k.py.
"""

from detectron2.config import LazyCall as L

from pretrain.data.augment import Photometric

from .ijepa_vitb16_in1k import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.25
train.base_lr = 8e-4 / 2**0.5  # 8e-4 at 2,048 images

dataloader.train.crops.flip = 0.5
dataloader.train.crops.photometric = [L(Photometric)(jitter_prob=0.0, grey_prob=0.2, blur_prob=0.5)] * 3
dataloader.train.masks.update(off_by_one=True, one_number=True)
model.predictor.shared_bias = True
lr_multiplier.update(start=2e-4, final=1e-4)
train.output_dir = "outputs/stop_vitb16_release"
