"""Visualise a backbone on whole images: attention from query points, and patch features as colours."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from cropfield.canvas import blend, colorize, draw_dot, enlarge, fit
from lab.figures.pca import colors
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.models.vit import VisionTransformer

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and deviation of pixels, for each band
OF_RGB = IMAGE_MEAN, IMAGE_STD


def normalised(image: np.ndarray, patch_size: int, statistics: Statistics = OF_RGB) -> Tensor:
    """uint8 (H, W, C) -> normalised (C, H', W'), cropped to whole patches."""
    height, width = (side - side % patch_size for side in image.shape[:2])
    pixels = torch.from_numpy(image[:height, :width].astype(np.float32))
    mean, std = map(torch.tensor, statistics)
    return ((pixels - mean) / std).permute(2, 0, 1)


def attention_picture(
    image: np.ndarray, attention: np.ndarray, query: tuple[float, float], top: float, side: int = 240
) -> np.ndarray:
    """Attention (H, W), in multiples of uniform, over the darkened image: none up to 1, white from `top`.

    query: (x, y) in [0, 1], drawn as a dot.
    """
    base = fit(image, side)
    size = (base.shape[1], base.shape[0])
    dark = np.repeat(base.mean(2, keepdims=True), 3, axis=2) * 0.6
    smooth = cv2.resize(attention.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    glow = np.clip((smooth - 1) / (top - 1), 0, 1)[..., None]
    picture = blend(dark, colorize(smooth, 1.0, top), 0.85 * np.sqrt(glow))
    draw_dot(picture, (query[0] * size[0], query[1] * size[1]), (90, 220, 255), radius=5)
    return picture


@torch.no_grad()
def feature_colors(
    backbone: VisionTransformer, images: list[np.ndarray], side: int = 240, statistics: Statistics = OF_RGB
) -> list[np.ndarray]:
    """Patch features of each image as colours, with one basis for all images -> pictures with one square for each
    patch.
    """
    features = []
    for image in images:
        pixels = normalised(image, backbone.patch_size, statistics)
        _, patches = backbone(pixels[None].to(backbone.pos_embed.device))
        features.append(patches[0].cpu().unflatten(0, backbone.grid(pixels)))
    return [enlarge(rgb.numpy(), max(1, side // max(rgb.shape[:2]))) for rgb in colors(features)]
