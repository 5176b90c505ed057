"""Plain Vision Transformer whose absolute position embeddings are a field."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.layers import LayerScale, Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pretrain.errors import UserError
from pretrain.models.attention import Attention, Layout, pack, scaled_linear
from pretrain.models.pos_embed import sample_pos_embed, sincos_field
from pretrain.ranges import Channels, Layers, Patches, Pixels, Positive, ShareBelowOne, Width


class VisionTransformer(nn.Module):
    """Pre-norm ViT in two halves: embed the parts of a token, then encode packed tokens.

    Content and position stay apart until they are added, because pretraining masks one or the other. The state dict
    has timm's names. Where the paper gives no value the default is DINOv2's: LayerNorm eps 1e-6, exact GELU, qkv bias,
    linear weights truncated-normal 0.02.

    Args:
        patch_size: side of a patch, in pixels.
        embed_dim, depth, num_heads, mlp_ratio: the usual; defaults are ViT-S.
        field_size: side of the position field P, in cells, or (h, w). Table 4b compares 50 (the default) and 19.
        field_init: "normal" (truncated, std 0.02); "sincos", the usual sine-cosine embeddings, as in I-JEPA; or
            "centred_sincos", those less their mean over the field. Most of a sine-cosine field is its mean, and a token
            that stands for a hidden position and starts at zero (e_POS) would be known by lacking it.
        field_scale: factor on the initial field. A centred sine-cosine field has an rms of 0.33 over 16 x 16 cells.
        learned_field: False keeps the field as it starts, a parameter that takes no gradient (I-JEPA).
        class_token: whether sequences begin with a class token. It has no position.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 and is drawn per crop.
        layer_scale: initial LayerScale gamma; None builds blocks without LayerScale.
        final_norm: whether `encode` ends with a LayerNorm.
        activation_checkpointing: recompute each block in the backward pass: less memory, a third more time.
        in_chans: bands of an image, 1 to 12.
    """

    def __init__(
        self,
        patch_size: Pixels = 16,
        embed_dim: Width = 384,
        depth: Layers = 12,
        num_heads: Width = 6,
        mlp_ratio: Positive = 4.0,
        field_size: Patches | tuple[Patches, Patches] = 50,
        field_init: str = "normal",
        field_scale: Positive = 1.0,
        learned_field: bool = True,
        class_token: bool = True,
        drop_path_rate: ShareBelowOne = 0.0,
        layer_scale: float | None = 1e-5,
        final_norm: bool = True,
        activation_checkpointing: bool = False,
        in_chans: Channels = 3,
    ):
        super().__init__()
        self.patch_size, self.in_chans = patch_size, in_chans
        self.embed_dim = embed_dim
        self.field_size = (field_size, field_size) if isinstance(field_size, int) else tuple(field_size)
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.activation_checkpointing = activation_checkpointing
        self.patch_embed = PatchEmbed(patch_size, embed_dim, in_chans)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim)) if class_token else None
        positions = torch.empty(1, self.field_size[0] * self.field_size[1], embed_dim)
        self.pos_embed = nn.Parameter(positions, requires_grad=learned_field)
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, rate, layer_scale) for rate in rates)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6) if final_norm else nn.Identity()
        self.reset_parameters(field_init, field_scale)

    @torch.no_grad()
    def reset_parameters(self, field_init: str, field_scale: float) -> None:
        if field_init == "normal":
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        elif field_init in ("sincos", "centred_sincos"):
            field = sincos_field(*self.field_size, self.embed_dim)
            self.pos_embed.copy_(field - field.mean(1) if field_init == "centred_sincos" else field)
        else:
            raise ValueError(f"field_init {field_init!r} is neither 'normal' nor 'sincos' nor 'centred_sincos'")
        self.pos_embed *= field_scale
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata for weight files: the architecture, because tensors do not show all of it."""
        return {
            "patch_size": str(self.patch_size),
            "embed_dim": str(self.embed_dim),
            "depth": str(len(self.blocks)),
            "num_heads": str(self.num_heads),
            "mlp_ratio": str(self.mlp_ratio),
            "field_size": "x".join(map(str, self.field_size)),
            "layer_scale": "kept" if isinstance(self.blocks[0].ls1, LayerScale) else "none",
        }

    def embed_patches(self, images: Tensor) -> Tensor:
        """Content embeddings: normalised images (B, C, H*p, W*p) -> (B, H*W, D)."""
        return self.patch_embed(images)

    def sample_positions(self, boxes: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Position embeddings of crops at `boxes` (B, 4) of the field -> (B, H*W, D); None is the whole field, once.

        They are sampled in float32 and have the field's type: a backbone in half precision stays in it.
        """
        return sample_pos_embed(self.pos_embed.unflatten(1, self.field_size), boxes, grid).to(self.pos_embed.dtype)

    def with_class_token(self, patches: Tensor) -> Tensor:
        """(B, N, D) -> (B, 1 + N, D), or unchanged in a backbone without class token."""
        if self.cls_token is None:
            return patches
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1).to(patches.dtype), patches], dim=1)

    def embed(self, images: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Content plus positions, after the class token if there is one: (B, C, H*p, W*p) -> (B, [1 +] H*W, D)"""
        return self.with_class_token(self.embed_patches(images) + self.sample_positions(boxes, self.grid(images)))

    def encode(self, groups: list[Tensor], kept: Tensor | None = None) -> list[Tensor] | Tensor:
        """Batches of sequences, each (B_g, L_g, D), as one packed sequence through all blocks and the final norm.

        Args:
            kept: indices (M,) of the packed tokens that are needed. The last block spares the others all that follows
                its attention.

        Returns:
            the groups' features, each (B_g, L_g, D); with `kept` only those tokens' (M, D), in its order.
        """
        packed, layout = pack(groups)
        for tokens in self.block_by_block(packed, layout, kept):
            packed = tokens
        tokens = self.norm(packed)
        return layout.split(tokens) if kept is None else tokens

    def block_by_block(self, tokens: Tensor, layout: Layout, kept: Tensor | None = None) -> Iterator[Tensor]:
        """The packed tokens (T, D) after each block in turn; `kept`: see `encode`."""
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:  # the call is checkpointed, not the module: no key changes its name
            arguments = (tokens, layout, kept if block is self.blocks[-1] else None)
            tokens = checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)
            yield tokens

    def grid(self, images: Tensor) -> tuple[int, int]:
        """(H, W) in patches of images (B, C, H*p, W*p)."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def forward(self, images: Tensor, boxes: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
        """Features of one batch of equally large, unmasked images.

        Args:
            images: (B, C, H*p, W*p), normalised as in pretraining: RGB with `pretrain.data.IMAGE_MEAN` and `IMAGE_STD`.
            boxes: (B, 4) places in the field; None, as at inference, is the whole field.

        Returns:
            class tokens (B, D), None in a backbone without them, and patch tokens (B, H*W, D), both after the final
            norm.
        """
        (features,) = self.encode([self.embed(images, boxes)])
        return (features[:, 0], features[:, 1:]) if self.cls_token is not None else (None, features)


class PatchEmbed(nn.Module):
    """Linear embedding of non-overlapping patches: (B, C, H*p, W*p) -> (B, H*W, D)."""

    def __init__(self, patch_size: int, embed_dim: int, in_chans: int = 3):
        super().__init__()
        self.proj = PatchConv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class PatchConv2d(nn.Conv2d):
    """A convolution whose kernels tile the image, computed as a matrix product.

    That is faster on GPUs, and in bfloat16 on CPUs many times as fast. (B, C, H*p, W*p) -> (B, D, H, W).
    """

    def forward(self, images: Tensor) -> Tensor:
        (height, width), side = images.shape[-2:], self.stride[0]
        if height % side or width % side:
            raise ValueError(f"an image of {height}x{width} does not divide into patches of {side}")
        if images.shape[1] != self.in_channels:
            raise UserError(
                f"an image has {images.shape[1]} bands, and the backbone takes {self.in_channels}; give images "
                "of as many bands, or a backbone of their in_chans"
            )
        patches = images.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Pre-norm transformer block: attention and MLP, each with LayerScale and with stochastic depth drawn per crop."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float, layer_scale: float | None):
        super().__init__()

        def scale() -> nn.Module:
            return nn.Identity() if layer_scale is None else LayerScale(dim, init_values=layer_scale)

        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ScaledMlp(dim, max(1, round(dim * mlp_ratio)))
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: Layout, kept: Tensor | None = None) -> Tensor:
        """(T, D) -> (T, D), or with the indices `kept` (M,) of the tokens that are needed -> (M, D)"""
        residual = x if kept is None else x.index_select(0, kept)
        x = residual + self.drop_path(self.attn(self.norm1(x), layout, kept, scale=self.ls1), layout, kept)
        return x + self.drop_path(self.mlp(self.norm2(x), scale=self.ls2), layout, kept)


class ScaledMlp(Mlp):
    """timm's MLP, with the LayerScale that follows it."""

    def forward(self, x: Tensor, scale: nn.Module | None = None) -> Tensor:
        """(T, D) -> (T, D)"""
        return scaled_linear(self.act(self.fc1(x)), self.fc2, scale)


class DropPath(nn.Module):
    """Stochastic depth for packed sequences: drops a branch for whole crops and rescales it for the others, so that its
    expectation stays."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate, self.drops = rate, rate > 0
        # What `forward` reads is a tensor: compiled code would be made anew for every other number.
        self.register_buffer("keep", torch.tensor(1 - rate), persistent=False)

    def forward(self, branch: Tensor, layout: Layout, kept: Tensor | None = None) -> Tensor:
        """(T or M, D) -> the same; `kept`: see `Block.forward`."""
        if not (self.training and self.drops):
            return branch
        stays = torch.rand(layout.num_sequences, 1, device=branch.device) < self.keep
        factor = layout.per_token(stays.to(branch.dtype) / self.keep)
        return branch * (factor if kept is None else factor.index_select(0, kept))


def compile_blocks(model: nn.Module, **options) -> None:
    """Compile every `Block` in `model` in place, so that no key changes its name.

    Blocks share compilations: one each for student and teacher, training and evaluation, with and without drop path,
    leaving tokens out (the last block) or not, and once more when the number of tokens varies. Past torch's own limit
    of eight the rest would not be compiled.

    Args:
        options: of `torch.compile`.
    """
    config = torch._dynamo.config
    config.cache_size_limit = max(32, config.cache_size_limit)  # since torch 2.7 another name of recompile_limit
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(**options)
