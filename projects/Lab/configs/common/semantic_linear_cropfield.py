"""Segmenter's linear decoder on the plain CropField ViT-B (App. B.3).

The backbone keeps its final norm and its class token, where a detector drops both. The one linear layer reads the
backbone's tokens as they are, and pretraining only ever used them normalised; a feature pyramid has norms of its own.
The class token takes part in the attention of every block that was pretrained with one, as in Segmenter; StoP's
backbone has none.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from cropfield import CropFieldViT, PlainBackbone
from lab.semantic.datasets import has_class_token, num_semantic_classes
from lab.semantic.segmentor import LinearSegmentationHead, SlidingWindowSegmentor

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
        ),
        frozen=False,
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
