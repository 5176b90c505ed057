"""The plain DINOv2 step's networks: a ViT on batches of equally large crops, and a head that ends in full logits."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pretrain.models.vit import VisionTransformer


class PlainAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)"""
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, length, dim))


class PlainBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, num_heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden)
        self.ls2 = LayerScale(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)"""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class PlainTrunk(nn.Module):
    """A ViT with the weights of `trunk`, which has a class token and LayerScale."""

    def __init__(self, trunk: VisionTransformer):
        super().__init__()
        dim, patch = trunk.embed_dim, trunk.patch_size
        self.side = trunk.field_size[0]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty_like(trunk.pos_embed))
        hidden = round(dim * trunk.mlp_ratio)
        self.blocks = nn.ModuleList(PlainBlock(dim, trunk.num_heads, hidden, b.drop_path) for b in trunk.blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.load_state_dict(trunk.state_dict())

    def forward(self, images: Tensor, mask_token: Tensor | None = None, masks: Tensor | None = None) -> Tensor:
        """Normalised images (B, 3, H*p, W*p), masks (B, N) of patches -> (B, 1 + N, D)"""
        x = self.patch_embed["proj"](images)
        grid = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        if masks is not None:
            x = torch.where(masks[..., None], mask_token.to(x.dtype), x)
        field = self.pos_embed.reshape(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        x = x + F.interpolate(field, grid, mode="bicubic").flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PlainHead(nn.Module):
    """An MLP, normalisation and a weight-normalised last layer whose gain stays at one: (n, D) -> (n, K)."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.mlp = deepcopy(head.mlp)
        weight = head.prototypes.weight
        self.prototypes = weight_norm(nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype))
        gain, direction = self.prototypes.parametrizations.weight.parameters()
        gain.data.fill_(1)
        gain.requires_grad_(False)
        direction.data.copy_(weight.data)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.prototypes(F.normalize(self.mlp(tokens), dim=-1, eps=1e-6))
