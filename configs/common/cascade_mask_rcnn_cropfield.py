"""Cascade Mask R-CNN with the same backbone and pyramid: three box heads with increasing IoU thresholds, as in
ViTDet.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from .mask_rcnn_cropfield import model

cascade = model_zoo.get_config("common/models/cascade_rcnn.py").model.roi_heads
for name in ("box_head", "box_predictor", "proposal_matcher"):
    model.roi_heads.pop(name)
model.roi_heads.update(
    _target_=cascade._target_,
    box_heads=[
        L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=256, height=7, width=7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm="LN",
        )
        for _ in cascade.box_heads
    ],
    box_predictors=cascade.box_predictors,
    proposal_matchers=cascade.proposal_matchers,
)
