"""Semantic segmentation with Segmenter's linear decoder (Table 1, App. B.3): the head, and sliding-window inference."""

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn


class LinearSegmentationHead(nn.Module):
    """Segmenter's linear decoder: a linear layer on each patch token, with scores upsampled to pixels.

    Args:
        input_shape: of the backbone's outputs; only `in_feature` is used.
        num_classes: K.
        in_feature: name of a feature map (B, D, H, W).
        ignore_value: label of pixels without a loss.
        loss_weight: factor of the loss.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        in_feature: str = "last_feat",
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ):
        super().__init__()
        self.in_feature, self.stride = in_feature, input_shape[in_feature].stride
        self.ignore_value, self.loss_weight = ignore_value, loss_weight
        self.classifier = nn.Conv2d(input_shape[in_feature].channels, num_classes, kernel_size=1)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: dict[str, Tensor], targets: Tensor | None = None) -> tuple[Tensor | None, dict]:
        """Scores (B, K, H*stride, W*stride) and no loss in evaluation; no scores and the loss in training.

        Args:
            features: {in_feature: (B, D, H, W)}.
            targets: labels (B, H*stride, W*stride), int64; needed in training.
        """
        scores = self.classifier(features[self.in_feature]).float()
        scores = F.interpolate(scores, scale_factor=self.stride, mode="bilinear", align_corners=False)
        return (None, self.losses(scores, targets)) if self.training else (scores, {})

    def losses(self, scores: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, averaged over pixels that have a class; 0 if none has."""
        total = F.cross_entropy(scores, targets, ignore_index=self.ignore_value, reduction="sum")
        labelled = (targets != self.ignore_value).sum().clamp(min=1)
        return {"loss_sem_seg": total / labelled * self.loss_weight}


class SlidingWindowSegmentor(SemanticSegmentor):
    """Detectron2's segmentor, evaluated in windows of the training crops' size: Segmenter's "single scale".

    The backbone then sees as many patches, at the same positions of the field, as in training. The last window of a row
    and of a column is shifted back into the image. Scores are averaged where windows overlap. An image with a shorter
    side below the window is upsampled first.

    Args:
        window: side in pixels, a multiple of the patch size.
        stride: pixels between windows; None: `window`, so that only the last ones overlap.
        windows_at_once: number of an image's windows in a batch.
        segmentor: arguments of `SemanticSegmentor`.
    """

    def __init__(self, *, window: int, stride: int | None = None, windows_at_once: int = 8, **segmentor):
        super().__init__(**segmentor)
        if window % self.backbone.size_divisibility:
            raise ValueError(
                f"a window of {window} pixels does not divide into patches of {self.backbone.size_divisibility}"
            )
        self.window, self.stride, self.windows_at_once = window, stride or window, windows_at_once

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """As `SemanticSegmentor.forward`: losses in training, otherwise {"sem_seg": (K, height, width)} for each
        image.
        """
        if self.training:
            return super().forward(batched_inputs)
        return [{"sem_seg": self.segment(image)} for image in batched_inputs]

    def segment(self, image: dict) -> Tensor:
        """Scores (K, height, width) of an image from Detectron2's mapper, at the size that it requests."""
        pixels = image["image"].to(self.device)
        wanted = image.get("height", pixels.shape[1]), image.get("width", pixels.shape[2])
        pixels = at_least((pixels - self.pixel_mean) / self.pixel_std, self.window)
        scores = self.slide(pixels)
        return sem_seg_postprocess(scores, scores.shape[1:], *wanted)

    def slide(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (3, H, W), both sides at least the window -> scores (K, H, W)."""
        rows, columns = (starts(side, self.window, self.stride) for side in pixels.shape[1:])
        windows = [np.s_[:, y : y + self.window, x : x + self.window] for y in rows for x in columns]
        total, count = None, torch.zeros_like(pixels[:1])
        for first in range(0, len(windows), self.windows_at_once):
            batch = windows[first : first + self.windows_at_once]
            scores = self.sem_seg_head(self.backbone(torch.stack([pixels[window] for window in batch])), None)[0]
            if total is None:
                total = scores.new_zeros(scores.shape[1], *pixels.shape[1:])
            for window, found in zip(batch, scores, strict=True):
                total[window] += found
                count[window] += 1
        return total / count


def starts(length: int, window: int, stride: int) -> list[int]:
    """Offsets of windows along a side of `length` >= `window` pixels; the last one ends at the border."""
    return [*range(0, length - window, stride), length - window]


def at_least(pixels: Tensor, side: int) -> Tensor:
    """Upsample pixels (3, H, W) bilinearly to a shorter side of `side`, if it is less."""
    scale = side / min(pixels.shape[1:])
    if scale <= 1:
        return pixels
    size = [max(side, round(length * scale)) for length in pixels.shape[1:]]
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
