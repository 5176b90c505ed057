"""Map vectors to colours: the first three principal components become red, green and blue."""

import torch
from torch import Tensor


def colors(arrays: list[Tensor]) -> list[Tensor]:
    """Vectors, each array (..., D), n > 3 in total -> uint8 RGB (..., 3), with one basis for all arrays.

    Signs are fixed by making the farthest vector positive, so that the colours do not change if all vectors are
    shifted, rotated or scaled together. Each channel spans the 1st to the 99th percentile.
    """
    vectors = torch.cat([array.flatten(0, -2) for array in arrays]).double()
    centred = vectors - vectors.mean(0)
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    scores = centred @ components[:3].T
    scores = scores * scores.gather(0, scores.abs().argmax(0, keepdim=True)).sign()
    low, high = scores.quantile(0.01, dim=0), scores.quantile(0.99, dim=0)
    rgb = (((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1) * 255).round().byte()
    parts = rgb.split([array[..., 0].numel() for array in arrays])
    return [part.unflatten(0, array.shape[:-1]) for part, array in zip(parts, arrays, strict=True)]
