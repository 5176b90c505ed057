"""How diverse and how wide attention is, by layer and head: normalised mutual information and mean distance (App. A).

Both look at attention from patches to patches. The class token is left out on both sides: it has no place, so no
distance, and a patch's attention is renormalised over the patches. Each image gives one value for a head; an image's
attention is never held in whole, and of an image only these values stay. All is float64 from the dot products on.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.attention.weights import queries_and_keys
from pretrain.models.attention import pack
from pretrain.models.vit import VisionTransformer

ROWS = 16  # queries at a time: with 12 heads and 900 keys a matrix has 1.4 MB, and stays in the cache


@dataclass(frozen=True)
class AttentionStats:
    """Means over images and their standard deviations, each (layers, heads) float64.

    `nmi` lies in [0, 1]; `distance` is in patch sides.
    """

    nmi: Tensor
    distance: Tensor
    nmi_std: Tensor
    distance_std: Tensor
    num_images: int


@torch.no_grad()
def attention_stats(backbone: VisionTransformer, images: Iterable[Tensor]) -> AttentionStats:
    """Statistics of a backbone's attention over images (3, H*p, W*p), normalised, at least one; streaming.

    Equally large images, or the means mix distances of different grids.
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
    """NMI and mean distance of softmax(q k^T / sqrt(head_dim)), a block of rows at a time.

    With p(q) = 1/N and p(q, k) = pi(k|q) p(q), the mutual information is H(k) - H(k|q): the entropy of the attention
    that patches receive, less the mean entropy of a row. Strehl & Ghosh (2002) divide it by sqrt(H(q) H(k)): 0 where
    all queries look alike, 1 where each looks at a key of its own. Where all look at one single key, it is 0.

    Args:
        q, k: (heads, H*W, head_dim) float.
        grid: (H, W).

    Returns:
        (2, heads) float64
    """
    q, k = q.double(), k.double()  # float32 sums over H*W keys differ between processors in the sixth digit
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
    """The mean distance of uniform attention on a grid (H, W), in patch sides: 0.521 of the side of a fine square."""
    count = grid[0] * grid[1]
    rows = (patch_distances(grid, start, min(start + ROWS, count)).sum() for start in range(0, count, ROWS))
    return float(sum(rows)) / count**2


def patch_distances(grid: tuple[int, int], start: int, stop: int, device=None) -> Tensor:
    """Distances, in patches, of the centres of patches `start` to `stop` from all -> (stop - start, H*W) float64."""
    index = torch.arange(grid[0] * grid[1], device=device)
    row, column = (index // grid[1]).double(), (index % grid[1]).double()
    return torch.hypot(row[start:stop, None] - row, column[start:stop, None] - column)
