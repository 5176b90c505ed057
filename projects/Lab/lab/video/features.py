"""Frames as a trunk sees them."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.models.vit import VisionTransformer

ROUNDING = 64  # DINO's, for the longer side; a multiple of the usual patches


def frame_size(height: int, width: int, short_side: int, patch: int) -> tuple[int, int]:
    """(H, W) that a frame is resized to: DAVIS's 480 x 854 becomes 480 x 832, as with DINO.

    The longer side is rounded down to a multiple of 64; where patches do not divide that (ViT-H/14), both sides are
    rounded down to multiples of the patch, of which no paper says anything.
    """
    unit = ROUNDING if ROUNDING % patch == 0 else patch
    short = max(1, short_side // patch) * patch
    long = max(1, short_side * max(height, width) // min(height, width) // unit) * unit
    return (long, short) if height > width else (short, long)


@torch.no_grad()
def patch_features(trunk: VisionTransformer, frame: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Patch tokens of the last layer, of unit length: uint8 (H, W, 3), resized to `size` -> (h, w, D) float32."""
    device = trunk.patch_embed.proj.weight.device
    resized = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(resized).to(device).permute(2, 0, 1).float()
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    images = ((pixels - mean) / std)[None]
    _, patches = trunk(images)
    return F.normalize(patches[0].float(), dim=-1).unflatten(0, trunk.grid(images))
