"""Semantic segmentation (App. B.3): data, model and optimizer.

ADE20K as registered by Detectron2, or any folder with the same layout (dataset.root, dataset.classes), augmented as in
Segmenter: shorter side 256 to 1024 pixels, a crop of 512 in which no class covers more than 3/4, flip, colour jitter.

Segmenter's linear decoder on the plain CropField ViT-B. The final norm and the class token are kept, unlike in a
detector: the linear layer reads the backbone's tokens directly, and pretraining only used them normalised (a feature
pyramid has its own norms). As in Segmenter, the class token takes part in attention if the backbone was pretrained with
one; StoP's has none.

AdamW with polynomial decay; `train` as for detectors. The paper gives the sweep's values of lr and weight decay and a
final lr of 0.1 x lr. Power 0.9, no warm-up and no layer-wise decay are Segmenter's. No weight decay on norms, biases,
LayerScale, positions and the class token is our choice, as in pretraining.
"""

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts
from detectron2.evaluation import SemSegEvaluator
from detectron2.layers import ShapeSpec
from detectron2.projects.point_rend import ColorAugSSDTransform

from cropfield import CropFieldViT, PlainBackbone
from cropfield.loading import build_test_loader, build_train_loader
from cropfield.mapper import ImageMapper, ResizeShortestEdge
from cropfield.schedule import PolynomialToFloor
from lab.semantic.datasets import IGNORE, has_class_token, num_semantic_classes, read_labels, semantic_dataset
from lab.semantic.segmentor import LinearSegmentationHead, SlidingWindowSegmentor

from .....configs.common.detection import train

dataset = dict(root="", classes="")
crop_size = 512

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=L(semantic_dataset)(root="${dataset.root}", classes="${dataset.classes}", split="train")
        ),
        mapper=L(ImageMapper)(
            is_train=True,
            augmentations=[
                # Segmenter also limits the longer side to four times the shorter, which few images reach.
                L(ResizeShortestEdge)(short_edge_length=(crop_size // 2, crop_size * 2), max_size=crop_size * 8),
                L(T.RandomCrop_CategoryAreaConstraint)(
                    crop_type="absolute",
                    crop_size=(crop_size, crop_size),
                    single_category_max_area=0.75,
                    ignored_category=IGNORE,
                ),
                L(T.RandomFlip)(horizontal=True),
                L(ColorAugSSDTransform)(img_format="RGB"),
            ],
            image_format="RGB",
        ),
        total_batch_size=16,
        aspect_ratio_grouping=False,
        num_workers=4,
    ),
    test=L(build_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=L(semantic_dataset)(root="${dataset.root}", classes="${dataset.classes}", split="val"),
            filter_empty=False,
        ),
        mapper=L(ImageMapper)(
            is_train=False,
            augmentations=[L(ResizeShortestEdge)(short_edge_length=crop_size, max_size=crop_size * 4)],
            image_format="RGB",
        ),
        num_workers=4,
    ),
    evaluator=L(SemSegEvaluator)(dataset_name="${..test.dataset.names}", sem_seg_loading_fn=read_labels),
)

constants = model_zoo.get_config("common/data/constants.py").constants
crop_size = 512

model = L(SlidingWindowSegmentor)(
    backbone=L(PlainBackbone)(
        net=L(CropFieldViT)(
            patch_size=16,
            embed_dim=768,
            depth=12,
            num_heads=12,
            field_size=50,
            drop_path_rate=0.1,
            final_norm=True,
            class_token=L(has_class_token)(weights="${train.init_checkpoint}"),
            out_feature="last_feat",
            square_pad=crop_size,  # pads smaller crops
            activation_checkpointing=False,
            frozen="${train.freeze_backbone}",
        ),
    ),
    sem_seg_head=L(LinearSegmentationHead)(
        input_shape=dict(
            last_feat=L(ShapeSpec)(
                channels="${model.backbone.net.embed_dim}", stride="${model.backbone.net.patch_size}"
            )
        ),
        num_classes=L(num_semantic_classes)(classes="${dataset.classes}"),
    ),
    pixel_mean=constants.imagenet_rgb256_mean,
    pixel_std=constants.imagenet_rgb256_std,
    window=crop_size,
    stride=crop_size,
)

train.reference_batch_size = 16
train.best_metric = "sem_seg/mIoU"

optimizer = model_zoo.get_config("common/optim.py").AdamW
not_decayed = ("bias", "gamma", "pos_embed", "cls_token")
optimizer.params.overrides = {name: dict(weight_decay=0.0) for name in not_decayed}

lr_multiplier = L(PolynomialToFloor)(power=0.9, floor=0.1)
