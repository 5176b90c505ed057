"""A trunk out of a weight file, as what is evaluated: built from the file's own tensors, frozen, in eval mode."""

import logging
from pathlib import Path

from pretrain.errors import UserError
from pretrain.models.load_trunk import describe, fill_trunk
from pretrain.models.public_weights import PATCH_WEIGHT, PUBLISHED_HEADS, TrunkFile, read_trunk
from pretrain.models.vit import VisionTransformer

logger = logging.getLogger(__name__)


def open_trunk(path: str | Path, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """The trunk of a backbone file, a training state (its teacher) or public weights, see `read_trunk`; on the CPU.

    Args:
        num_heads: heads, for files that do not record them; None takes those of published ViTs of
            that width (`PUBLISHED_HEADS`).
        drop_path_rate: see `VisionTransformer`; for who fine-tunes it.

    Raises:
        UserError: the file cannot be read or is no plain ViT; or its number of heads is neither recorded, nor given,
            nor known by its width.
    """
    file = read_trunk(path)
    trunk = trunk_for(file, num_heads, drop_path_rate)
    logger.info(str(fill_trunk(trunk, file)))
    return trunk


def build_trunk(path: str | Path, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """An untrained trunk of the shape of the one in `path`: what `open_trunk` is to be compared with."""
    return trunk_for(read_trunk(path), num_heads, drop_path_rate)


def trunk_for(file: TrunkFile, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """An untrained trunk of the shape of the one in a file that was read already."""
    shape, class_token = describe(file.state), "cls_token" in file.state
    num_heads = file.num_heads or num_heads or PUBLISHED_HEADS.get(shape["width"])
    if num_heads is None:
        raise UserError(
            f"{file.path} does not record its number of heads, and no published ViT is {shape['width']} channels wide; "
            "say it with --num-heads"
        )
    trunk = VisionTransformer(
        patch_size=file.state[PATCH_WEIGHT].shape[-1],
        embed_dim=shape["width"],
        depth=shape["depth"],
        num_heads=num_heads,
        mlp_ratio=shape["MLP width"] / shape["width"],
        field_size=file.field_size or 14,
        drop_path_rate=drop_path_rate,
        class_token=class_token,
        field_init="normal" if class_token else "sincos",  # as I-JEPA's begin, and stay
        layer_scale=1.0 if any(name.endswith(".gamma") for name in file.state) else None,
        final_norm="norm.weight" in file.state,
    )
    return trunk.requires_grad_(False).eval()
