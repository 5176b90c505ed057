"""Semantic segmentation (App. B.3): the data, the model, its optimizer.

ADE20K as Detectron2 registers it, or any folder in its layout (dataset.root, dataset.classes), augmented as in
Segmenter: short side 256 to 1024 pixels, a crop of 512 of which no class covers more than 3/4, flip, colours.

Segmenter's linear decoder on the plain CropField ViT-B. The backbone keeps its final norm and its class token, where a
detector drops both. The one linear layer reads the backbone's tokens as they are, and pretraining only ever used them
normalised; a feature pyramid has norms of its own. The class token takes part in the attention of every block that was
pretrained with one, as in Segmenter; StoP's backbone has none.

AdamW and a polynomial decay; `train` as for detectors. The paper gives the values that lr and weight decay are swept
over, a final lr of 0.1 x lr, and no more. Segmenter's power of 0.9, no warm-up and no layer-wise decay are taken from
there; that norms, biases, LayerScale, positions and the class token are not decayed is ours, as in pretraining.
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
                # Segmenter draws the scale and bounds the long side by four short ones, which hardly any image reaches.
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
            square_pad=crop_size,  # crops that are smaller
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
