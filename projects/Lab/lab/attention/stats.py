"""Diversity and range of attention by layer and head: normalised mutual information and mean distance (App. A).

Both use attention between patches only. The class token is excluded on both sides, because it has no position, and each
patch's attention is renormalised over the patches. Only the values of each image and head are kept, never a whole
attention matrix. All computations after the dot products are in float64.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.attention.weights import queries_and_keys
from pretrain.models.attention import pack
from pretrain.models.vit import VisionTransformer

ROWS = 16  # queries at a time: with 12 heads and 900 keys a block has 1.4 MB, and fits into the CPU cache


@dataclass(frozen=True)
class AttentionStats:
    """Mean and standard deviation over images, each (layers, heads) float64.

    `nmi` is in [0, 1]; `distance` in patch sides.
    """

    nmi: Tensor
    distance: Tensor
    nmi_std: Tensor
    distance_std: Tensor
    num_images: int


@torch.no_grad()
def attention_stats(backbone: VisionTransformer, images: Iterable[Tensor]) -> AttentionStats:
    """Statistics of a backbone's attention over at least one normalised image (3, H*p, W*p), in one pass.

    Use images of equal size, because distances depend on the grid.
    """
    device = backbone.pos_embed.device
    count, total, squares = 0, 0.0, 0.0
    for image in images:
        values = image_stats(backbone, image.to(device)).cpu()
        count, total, squares = count + 1, total + values, squares + values.square()
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    return AttentionStats(*mean, *std, count)


@torch.no_grad()
def image_stats(backbone: VisionTransformer, image: Tensor) -> Tensor:
    """One image (3, H*p, W*p) -> (2, layers, heads): NMI, and mean distance in patch sides."""
    grid = backbone.grid(image)
    patches = backbone.embed_patches(image[None]) + backbone.sample_positions(None, grid)
    tokens, layout = pack([backbone.with_class_token(patches)])
    first = layout.num_tokens - grid[0] * grid[1]
    layers = []
    for block in backbone.blocks:
        q, k = (t[0, :, first:] for t in queries_and_keys(block, tokens, layout.num_tokens))
        layers.append(head_stats(q, k, grid))
        tokens = block(tokens, layout)
    return torch.stack(layers, dim=1)


def head_stats(q: Tensor, k: Tensor, grid: tuple[int, int], rows: int = ROWS) -> Tensor:
    """NMI and mean distance of softmax(q k^T / sqrt(head_dim)), computed by blocks of rows.

    With p(q) = 1/N and p(q, k) = pi(k|q) p(q), the mutual information is H(k) - H(k|q): the entropy of the attention
    received by patches minus the mean entropy of a row. It is normalised by sqrt(H(q) H(k)) (Strehl & Ghosh, 2002): 0
    if all queries attend alike, 1 if each attends to a different key. If all attend to the same single key, it is 0.

    Args:
        q, k: (heads, H*W, head_dim) float.
        grid: (H, W).

    Returns:
        (2, heads) float64.
    """
    q, k = q.double(), k.double()  # float32 sums over H*W keys differ between CPUs in the sixth digit
    heads, count, dim = q.shape
    received = q.new_zeros(heads, count)
    entropy, distance = q.new_zeros(heads), q.new_zeros(heads)
    for start in range(0, count, rows):
        logits = (q[:, start : start + rows] / math.sqrt(dim)) @ k.transpose(-1, -2)
        log_shares = logits.log_softmax(-1)
        shares = log_shares.exp()
        far = patch_distances(grid, start, min(start + rows, count), q.device)
        received += shares.sum(1) / count
        entropy -= (shares * log_shares).sum((1, 2)) / count
        distance += shares.flatten(1) @ far.flatten() / count
    marginal = -torch.xlogy(received, received).sum(1)
    information = (marginal - entropy).clamp_min(0)
    nmi = information / (math.log(max(count, 2)) * marginal.clamp_min(1e-12)).sqrt()
    return torch.stack([nmi.clamp_max(1), distance])


def uniform_distance(grid: tuple[int, int]) -> float:
    """Mean distance of uniform attention on a grid (H, W), in patch sides: 0.521 of the side of a fine square grid."""
    count = grid[0] * grid[1]
    rows = (patch_distances(grid, start, min(start + ROWS, count)).sum() for start in range(0, count, ROWS))
    return float(sum(rows)) / count**2


def patch_distances(grid: tuple[int, int], start: int, stop: int, device=None) -> Tensor:
    """Distances between the centres of patches `start` to `stop` and all patches -> (stop - start, H*W) float64."""
    index = torch.arange(grid[0] * grid[1], device=device)
    row, column = (index // grid[1]).double(), (index % grid[1]).double()
    return torch.hypot(row[start:stop, None] - row, column[start:stop, None] - column)
