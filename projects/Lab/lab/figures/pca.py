"""Vectors as colours: their three principal components become red, green and blue."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ColorBasis:
    """Where colours come from: `mean` (D,), `components` (3, D), and the range `low`, `high` (3,) of each channel."""

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor


def color_basis(vectors: Tensor) -> ColorBasis:
    """The three directions of largest variance of vectors (n, D), n > 3.

    A direction's sign means nothing; it is settled by making the farthest vector positive, so that the colours do not
    change when all vectors are moved, turned or scaled together. Each channel spans the 1st to the 99th percentile.
    """
    vectors = vectors.double()
    mean = vectors.mean(0)
    _, _, components = torch.linalg.svd(vectors - mean, full_matrices=False)
    components = components[:3]
    scores = (vectors - mean) @ components.T
    farthest = scores.gather(0, scores.abs().argmax(0, keepdim=True))
    components = components * farthest.sign().T
    scores = scores * farthest.sign()
    return ColorBasis(mean, components, scores.quantile(0.01, dim=0), scores.quantile(0.99, dim=0))


def colors(vectors: Tensor, basis: ColorBasis) -> Tensor:
    """Vectors (..., D) -> uint8 RGB (..., 3)."""
    scores = (vectors.double() - basis.mean) @ basis.components.T
    share = (scores - basis.low) / (basis.high - basis.low).clamp_min(1e-12)
    return (share.clamp(0, 1) * 255).round().byte()
