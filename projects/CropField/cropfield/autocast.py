"""Mixed precision for models on CPUs, which Detectron2's `train.amp` leaves to GPUs."""

import torch
from detectron2.modeling import GeneralizedRCNN


class TrainsInBFloat16:
    """Goes before a model's class, which then trains under bfloat16 autocast; weights stay float32.

    Evaluation is float32: bfloat16 scores have so few values that many detections tie, and average precision is a
    matter of their order.
    """

    def forward(self, batched_inputs: list[dict]):
        """As the model's own."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.training):
            return super().forward(batched_inputs)


class BFloat16RCNN(TrainsInBFloat16, GeneralizedRCNN):
    """`GeneralizedRCNN` that trains in bfloat16."""
