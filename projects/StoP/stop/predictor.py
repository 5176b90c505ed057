"""I-JEPA's predictor, and stochastic positional embeddings (StoP): noise on the positions of the masked tokens.

With context features s, predictor positions psi and a bias m shared by all masked tokens, the tokens are (Eq. 6)

    context token  c_i = A s_i + psi_i          masked token  m_j = A n_j + psi_j + m,    n_j ~ N(0, sigma^2 I)

The same matrix A projects context and noise, so the model cannot suppress the noise without losing the context.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.models.attention import pack
from pretrain.models.pos_embed import sample_pos_embed, sincos_field
from pretrain.models.vit import Block
from pretrain.ranges import Layers, NotNegative, Patches, Positive, Width

NOISE_ON = ("masked", "context", "both")
COVARIANCES = ("learned", "fixed", "untied")
NOISE_CONVENTIONS = ("std", "variance")


class Predictor(nn.Module):
    """A narrow ViT that predicts the features of target patches from those of context patches.

    Without noise (`noise_std=0`) it is I-JEPA's.

    Args:
        backbone_dim: D of the backbone.
        embed_dim, depth, num_heads, mlp_ratio: as usual; width 384, 6 blocks with ViT-B, 12 with ViT-L and ViT-H
            (Tables 9-12).
        field_size: grid of its own position embeddings, (h, w) or the side: the backbone's grid.
        learned_positions: learned positions (Table 6, row 2) instead of fixed sine-cosine ones.
        noise_std: sigma. 0.25 with ViT-B and ViT-L, 0.2 with ViT-H.
        noise_on: tokens with stochastic positions: "masked" (StoP), "context" or "both" (Table 7).
        covariance: "learned": sigma^2 A A^T. "fixed": sigma^2 I, without A (Fig. 3). "untied": learned with a separate
            matrix, which training shrinks to zero (Sec. 3); requires noise.
        noise_convention: "std": sigma is n's standard deviation, as on Fig. 4's axis. "variance": sigma is n's
            variance, as Eq. 4 is printed, Sigma = sigma A A^T.
        shared_bias: give A a bias, which replaces m in the masked tokens, as in StoP's release; there is no
            `mask_token` then. In Eqs. 1 and 6 A has no bias.
    """

    def __init__(
        self,
        backbone_dim: Width,
        embed_dim: Width = 384,
        depth: Layers = 6,
        num_heads: Width = 12,
        mlp_ratio: Positive = 4.0,
        field_size: Patches | tuple[Patches, Patches] = 14,
        learned_positions: bool = False,
        noise_std: NotNegative = 0.0,
        noise_on: str = "masked",
        covariance: str = "learned",
        noise_convention: str = "std",
        shared_bias: bool = False,
    ):
        super().__init__()
        for name, value, known in (
            ("noise_on", noise_on, NOISE_ON),
            ("covariance", covariance, COVARIANCES),
            ("noise_convention", noise_convention, NOISE_CONVENTIONS),
        ):
            if value not in known:
                raise UserError(f"model.predictor.{name}: {value!r} is none of {', '.join(known)}")
        if noise_std < 0:
            raise UserError(f"model.predictor.noise_std: {noise_std} is negative; 0 turns the noise off")
        if covariance == "untied" and noise_std == 0:
            raise UserError(
                "model.predictor.covariance: 'untied' is a matrix for the noise, and noise_std is 0; set noise_std, or "
                "leave covariance at 'learned'"
            )
        self.backbone_dim = backbone_dim
        self.noise_std = noise_std if noise_convention == "std" else noise_std**0.5
        self.noise_on, self.covariance = noise_on, covariance
        self.field_size = (field_size, field_size) if isinstance(field_size, int) else tuple(field_size)

        self.embed = nn.Linear(backbone_dim, embed_dim, bias=shared_bias)  # A
        self.untied = nn.Linear(backbone_dim, embed_dim, bias=False) if covariance == "untied" else None
        self.mask_token = None if shared_bias else nn.Parameter(torch.empty(embed_dim))  # m
        self.pos_embed = nn.Parameter(sincos_field(*self.field_size, embed_dim), requires_grad=learned_positions)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, 0.0, None) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.proj = nn.Linear(embed_dim, backbone_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        if self.pos_embed.requires_grad:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, context: Tensor, context_patches: Tensor, target_patches: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Predict each target block separately from the image's context.

        Args:
            context: features of the context patches (B, N_c, D).
            context_patches: (B, N_c) patch indices in row-major order.
            target_patches: (B, M, N_t) patch indices in row-major order.
            grid: (H, W) in patches.

        Returns:
            (B, M, N_t, D).
        """
        num_blocks = target_patches.shape[1]
        positions = self.positions(grid)
        visible = self.context_tokens(context, positions[context_patches])[:, None].expand(-1, num_blocks, -1, -1)
        masked = self.masked_tokens(positions[target_patches])
        tokens, layout = pack([torch.cat([visible, masked], dim=2).flatten(0, 1)])  # a row for each target block
        for block in self.blocks:
            tokens = block(tokens, layout)
        (features,) = layout.split(tokens)
        predicted = self.proj(self.norm(features[:, visible.shape[2] :]))
        return predicted.unflatten(0, (-1, num_blocks))

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """psi of all patches of an image (H*W, embed_dim) float32; on the predictor's own grid, the embeddings
        unchanged.
        """
        return sample_pos_embed(self.pos_embed.unflatten(1, self.field_size), None, grid)[0]

    @property
    def masked_bias(self) -> Tensor:
        """m (embed_dim,), the bias shared by all masked tokens."""
        return self.embed.bias if self.mask_token is None else self.mask_token

    def context_tokens(self, features: Tensor, positions: Tensor) -> Tensor:
        """c = A s + psi: features (..., D) at positions (..., embed_dim) -> (..., embed_dim)."""
        tokens = self.embed(features) + positions
        return tokens + self.position_noise(positions) if self.is_noisy("context") else tokens

    def masked_tokens(self, positions: Tensor) -> Tensor:
        """m = A n + psi + m: positions (..., embed_dim) -> (..., embed_dim)."""
        tokens = positions + self.masked_bias
        return tokens + self.position_noise(positions) if self.is_noisy("masked") else tokens

    def is_noisy(self, kind: str) -> bool:
        """Whether the positions of "masked" or "context" tokens are stochastic."""
        return self.noise_std > 0 and self.noise_on in (kind, "both")

    def position_noise(self, positions: Tensor) -> Tensor:
        """A n, drawn independently for every token (Eq. 5), in the shape of `positions`."""
        if self.covariance == "fixed":
            return self.noise_std * self.draw(positions.shape)
        matrix = self.embed.weight if self.untied is None else self.untied.weight
        return F.linear(self.noise_std * self.draw((*positions.shape[:-1], self.backbone_dim)), matrix)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal samples."""
        return torch.randn(shape, dtype=self.embed.weight.dtype, device=self.embed.weight.device)
