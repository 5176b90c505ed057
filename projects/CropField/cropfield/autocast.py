"""Mixed precision for detectors on CPUs, which Detectron2's `train.amp` leaves to GPUs."""

import torch
from detectron2.modeling import GeneralizedRCNN


class BFloat16RCNN(GeneralizedRCNN):
    """`GeneralizedRCNN` under bfloat16 autocast, in training and in evaluation. Weights and losses stay float32."""

    def forward(self, batched_inputs: list[dict]):
        """As `GeneralizedRCNN.forward`."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return super().forward(batched_inputs)
