"""Attention probabilities of a trunk's blocks, which its fused kernels never show."""

import torch
from torch import Tensor

from pretrain.models.attention import Layout, pack
from pretrain.models.vit import Block, VisionTransformer


@torch.no_grad()
def tokens_before_last_block(
    trunk: VisionTransformer, images: Tensor, boxes: Tensor | None = None
) -> tuple[Tensor, Layout]:
    """The packed tokens (T, D) that enter the last block, and their layout. Arguments as in `trunk.forward`."""
    tokens = trunk.embed_patches(images) + trunk.sample_positions(boxes, trunk.grid(images))
    packed, layout = pack([trunk.with_class_token(tokens)])
    for block in trunk.blocks[:-1]:
        packed = block(packed, layout)
    return packed, layout


@torch.no_grad()
def attention_probabilities(block: Block, tokens: Tensor, length: int) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) of one block for sequences of one length.

    Args:
        tokens: (B*length, D), what enters the block.

    Returns:
        (B, heads, length, length) float32; a row is a query and sums to one.
    """
    q, k = queries_and_keys(block, tokens, length)
    with torch.autocast(q.device.type, enabled=False):
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


def queries_and_keys(block: Block, tokens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Of what enters a block, (B*length, D): two times (B, heads, length, head_dim) float32."""
    attn = block.attn
    q, k, _ = attn.qkv(block.norm1(tokens)).unflatten(-1, (3, attn.num_heads, -1)).unbind(1)
    return tuple(t.float().unflatten(0, (-1, length)).transpose(1, 2) for t in (q, k))


def last_attention(trunk: VisionTransformer, images: Tensor, boxes: Tensor | None = None) -> Tensor:
    """Final-layer attention of equally large images (B, 3, H*p, W*p) -> (B, heads, L, L), class token first if any."""
    tokens, layout = tokens_before_last_block(trunk, images, boxes)
    return attention_probabilities(trunk.blocks[-1], tokens, layout.lengths[0])


@torch.no_grad()
def patch_attention(trunk: VisionTransformer, image: Tensor, queries: list[tuple[float, float]]) -> Tensor:
    """How much the patches at some points of an image look at each patch, in the final layer, mean over heads.

    Args:
        image: (3, H*p, W*p), normalised.
        queries: (x, y) in [0, 1].

    Returns:
        (len(queries), H, W), in multiples of uniform attention: 1 is what a patch gets that is like any other.
    """
    tokens, layout = tokens_before_last_block(trunk, image[None])
    rows, columns = trunk.grid(image)
    first = layout.num_tokens - rows * columns
    places = [first + min(int(y * rows), rows - 1) * columns + min(int(x * columns), columns - 1) for x, y in queries]
    q, k = (t[0] for t in queries_and_keys(trunk.blocks[-1], tokens, layout.num_tokens))  # (heads, L, head_dim)
    shares = (q[:, places] @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(0)  # (queries, L)
    return shares[:, first:].unflatten(1, (rows, columns)) * layout.num_tokens
