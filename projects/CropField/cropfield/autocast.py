"""Mixed-precision training on CPUs, where Detectron2's `train.amp` does not work."""

import torch
from detectron2.modeling import GeneralizedRCNN


class TrainsInBFloat16:
    """Mixin that trains a model under bfloat16 autocast; weights stay float32. List it before the model's class.

    Evaluation runs in float32: bfloat16 scores take so few values that many detections tie, and AP depends on their
    order.
    """

    def forward(self, batched_inputs: list[dict]):
        """Run the model's own forward, under autocast in training."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.training):
            return super().forward(batched_inputs)


class BFloat16RCNN(TrainsInBFloat16, GeneralizedRCNN):
    """`GeneralizedRCNN` that trains in bfloat16."""
