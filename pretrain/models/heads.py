"""Projection head of self-distillation: an MLP onto a sphere, and prototypes on that sphere."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """MLP D -> hidden -> hidden -> bottleneck with GELU, L2-normalised, and K prototypes.

    `forward` stops at the bottleneck. The logits `z @ prototypes().T` are (tokens x K) and are left to the losses,
    which make them in blocks.

    Args:
        dim: D of the backbone.
        num_prototypes: K; 65,536 in the paper (Table 6).
        hidden_dim, bottleneck_dim: DINOv2's 2048 and 256; the paper is silent.
    """

    def __init__(self, dim: int, num_prototypes: int = 65536, hidden_dim: int = 2048, bottleneck_dim: int = 256):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        self.prototypes = Prototypes(num_prototypes, bottleneck_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, D) -> unit vectors (n, bottleneck) in float32, or float64 where the head is"""
        points = self.mlp(tokens)
        return F.normalize(points.to(torch.promote_types(points.dtype, torch.float32)), dim=-1, eps=1e-6)


class Prototypes(nn.Module):
    """K unit vectors: weight normalisation with its gain frozen at one ("norm last layer" of Table 6)."""

    def __init__(self, num_prototypes: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_prototypes, dim))
        self.register_buffer("gain", torch.ones(num_prototypes, 1), persistent=False)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self) -> Tensor:
        """(K, bottleneck)"""
        # The fused kernel behind weight_norm: on 65,536 rows F.normalize takes four times as long.
        return torch._weight_norm(self.weight, self.gain, 0)
