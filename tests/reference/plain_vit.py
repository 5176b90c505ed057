"""The plain step's networks: a ViT on batches of equally large crops, and a head that ends in full logits."""

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


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


class PlainBackbone(nn.Module):
    """A ViT with the weights of `backbone`, a `VisionTransformer` with a class token and LayerScale."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        dim, patch = backbone.embed_dim, backbone.patch_size
        self.field_size = backbone.field_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty_like(backbone.pos_embed))
        hidden = round(dim * backbone.mlp_ratio)
        self.blocks = nn.ModuleList(
            PlainBlock(dim, backbone.num_heads, hidden, b.drop_path.rate) for b in backbone.blocks
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.to(backbone.pos_embed.dtype).load_state_dict(backbone.state_dict())

    def forward(
        self, images: Tensor, boxes: Tensor | None, masks: dict[str, Tensor], tokens: dict[str, Tensor]
    ) -> Tensor:
        """Crops (B, 3, H*p, W*p) at their boxes (B, 4) of the field -> (B, 1 + H*W, D)

        masks: by name, "content" or "position", patches (B, H*W) in which that half gives way to tokens[name] (D,).
        """
        content = self.patch_embed["proj"](images)
        grid = content.shape[-2:]
        halves = {"content": content.flatten(2).transpose(1, 2), "position": self.positions(boxes, grid)}
        for name, mask in masks.items():
            halves[name] = torch.where(mask[..., None], tokens[name].to(halves[name].dtype), halves[name])
        x = halves["content"] + halves["position"]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def positions(self, boxes: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """The field read at each patch's centre, by torch -> (B, H*W, D); boxes None: the whole field, once."""
        field = self.pos_embed.unflatten(1, self.field_size).permute(0, 3, 1, 2)
        if boxes is None:
            return F.interpolate(field, grid, mode="bicubic").flatten(2).transpose(1, 2)
        points = torch.stack([patch_centres(box, grid) for box in boxes.to(field)])
        read = F.grid_sample(
            field.expand(len(boxes), -1, -1, -1), 2 * points - 1, "bicubic", padding_mode="border", align_corners=False
        )
        return read.flatten(2).transpose(1, 2)


def patch_centres(box: Tensor, grid: tuple[int, int]) -> Tensor:
    """(x0, y0, x1, y1), x0 > x1 in a mirrored crop -> (H, W, 2), x and y of the middle between each patch's borders"""
    x0, y0, x1, y1 = box
    axes = []
    for first, last, count in ((y0, y1, grid[0]), (x0, x1, grid[1])):
        borders = [first + (last - first) * i / count for i in range(count + 1)]
        axes.append(torch.stack([(a + b) / 2 for a, b in zip(borders, borders[1:], strict=False)]))
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y], dim=-1)


class PlainHead(nn.Module):
    """An MLP, normalisation and a weight-normalised last layer whose gain stays at one: (n, D) -> (n, K)."""

    def __init__(self, head: nn.Module):
        super().__init__()
        weight = head.prototypes.weight
        hidden, dim = head.mlp[0].weight.shape
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, weight.shape[1])
        )
        self.mlp.to(weight.dtype).load_state_dict(head.mlp.state_dict())
        self.prototypes = weight_norm(nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype))
        gain, direction = self.prototypes.parametrizations.weight.parameters()
        gain.data.fill_(1)
        gain.requires_grad_(False)
        direction.data.copy_(weight.data)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.prototypes(F.normalize(self.mlp(tokens), dim=-1, eps=1e-6))
