"""Frames as the backbone sees them."""

import cv2
import numpy as np
import pytest
import torch

from lab.video.evaluate import frame_size, patch_features
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.models.vit import VisionTransformer


@pytest.mark.parametrize(
    ("height", "width", "patch", "expected"),
    [
        (480, 854, 16, (480, 832)),  # DAVIS's usual frame
        (480, 910, 8, (480, 896)),
        (854, 480, 16, (832, 480)),
        (960, 1708, 16, (480, 832)),
        (480, 480, 16, (480, 448)),  # of a square the width is taken as the longer side
        (480, 854, 14, (476, 854)),
    ],
)
def test_sizes(height, width, patch, expected):
    assert frame_size(height, width, 480, patch) == expected


@pytest.mark.parametrize("class_token", [True, False])
def test_features_are_the_last_layers_patches(class_token):
    torch.manual_seed(0)
    backbone = VisionTransformer(8, 32, 2, 4, field_size=3, class_token=class_token).eval()
    frame = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    found = patch_features(backbone, frame, (32, 64))
    pixels = torch.from_numpy(cv2.resize(frame, (64, 32))).float()
    images = ((pixels - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)).permute(2, 0, 1)[None]
    patches = backbone(images)[1][0]
    assert found.shape == (4, 8, 32)
    assert torch.allclose(found.flatten(0, 1), patches / patches.norm(dim=1, keepdim=True), atol=1e-5)
