"""ADE20K as Detectron2 registers it, or any folder in its layout (dataset.root, dataset.classes), augmented as in
Segmenter: short side 256 to 1024 pixels, a crop of 512 of which no class covers more than 3/4, flip, colours."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import SemSegEvaluator
from detectron2.projects.point_rend import ColorAugSSDTransform

from lab.semantic.datasets import IGNORE, read_labels, semantic_dataset

dataset = dict(root="", classes="")
crop_size = 512

dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=L(semantic_dataset)(root="${dataset.root}", classes="${dataset.classes}", split="train")
        ),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                # Segmenter draws the scale and bounds the long side by four short ones, which hardly any image reaches.
                L(T.ResizeShortestEdge)(short_edge_length=(crop_size // 2, crop_size * 2), max_size=crop_size * 8),
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
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=L(semantic_dataset)(root="${dataset.root}", classes="${dataset.classes}", split="val"),
            filter_empty=False,
        ),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=crop_size, max_size=crop_size * 4)],
            image_format="RGB",
        ),
        num_workers=4,
    ),
    evaluator=L(SemSegEvaluator)(dataset_name="${..test.dataset.names}", sem_seg_loading_fn=read_labels),
)
