"""Mask R-CNN with a simple feature pyramid on the plain CropField ViT-B (App. B.2): ViTDet's model without windows and
relative positions.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from cropfield import CropFieldViT
from cropfield.backbone import CropFieldFeaturePyramid, pyramid_scales
from cropfield.batched_roi_heads import BatchedROIHeads
from cropfield.batched_rpn import BatchedRPN
from cropfield.datasets import mask_features, num_classes

model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
model.backbone.net = L(CropFieldViT)(
    patch_size=16,
    embed_dim=768,
    depth=12,
    num_heads=12,
    field_size=50,
    drop_path_rate=0.1,
    in_chans=3,
    out_feature="last_feat",
    activation_checkpointing=False,
    frozen="${train.freeze_backbone}",
)
model.backbone._target_ = CropFieldFeaturePyramid
model.backbone.square_pad = "${dataloader.image_size}"
model.backbone.scale_factors = L(pyramid_scales)(patch_size="${model.backbone.net.patch_size}", strides=[4, 8, 16, 32])
# The same losses and weights as with Detectron2's RPN and StandardROIHeads, computed for all images at once.
model.proposal_generator._target_, model.roi_heads._target_ = BatchedRPN, BatchedROIHeads
# From the annotation file, or COCO's; see detection.py.
model.roi_heads.num_classes = L(num_classes)(json_file="${dataset.train_json}", otherwise=80)
# Without masks in that file this is a Faster R-CNN.
model.roi_heads.mask_in_features = L(mask_features)(
    json_file="${dataset.train_json}", features=model.roi_heads.mask_in_features
)
