"""Mixed precision for detectors on CPUs, which Detectron2's `train.amp` leaves to GPUs."""

import torch
from detectron2.modeling import GeneralizedRCNN


class BFloat16RCNN(GeneralizedRCNN):
    """`GeneralizedRCNN` under bfloat16 autocast, in training and in evaluation. Weights and losses stay float32."""

    def forward(self, batched_inputs: list[dict]):
        """As `GeneralizedRCNN.forward`."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return super().forward(batched_inputs)


def cpu_detector() -> type[GeneralizedRCNN]:
    """The detector class for this machine: `BFloat16RCNN` where a CPU with bfloat16 arithmetic does all the work."""
    # Without such instructions torch emulates bfloat16, many times slower than float32.
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return BFloat16RCNN if fast and not torch.cuda.is_available() else GeneralizedRCNN
