"""Attention probabilities of a backbone's blocks, which fused kernels do not return."""

import torch
from torch import Tensor

from pretrain.models.attention import pack
from pretrain.models.vit import Block, VisionTransformer


def queries_and_keys(block: Block, tokens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Queries and keys of a block from its input (B*length, D): two tensors (B, heads, length, head_dim) float32."""
    attn = block.attn
    q, k, _ = attn.qkv(block.norm1(tokens)).unflatten(-1, (3, attn.num_heads, -1)).unbind(1)
    return tuple(t.float().unflatten(0, (-1, length)).transpose(1, 2) for t in (q, k))


@torch.no_grad()
def patch_attention(backbone: VisionTransformer, image: Tensor, points: list[tuple[float, float]]) -> Tensor:
    """Attention in the last layer from the patches at some points to every patch, averaged over heads.

    Args:
        image: (3, H*p, W*p), normalised.
        points: (x, y) in [0, 1].

    Returns:
        (len(points), H, W), in multiples of uniform attention.
    """
    rows, columns = backbone.grid(image)
    tokens, layout = pack([backbone.embed(image[None])])
    for block in backbone.blocks[:-1]:
        tokens = block(tokens, layout)
    first = layout.num_tokens - rows * columns
    indices = [first + min(int(y * rows), rows - 1) * columns + min(int(x * columns), columns - 1) for x, y in points]
    q, k = (t[0] for t in queries_and_keys(backbone.blocks[-1], tokens, layout.num_tokens))  # (heads, L, head_dim)
    with torch.autocast(q.device.type, enabled=False):
        shares = (q[:, indices] @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(0)  # (points, L)
    return shares[:, first:].unflatten(1, (rows, columns)) * layout.num_tokens
