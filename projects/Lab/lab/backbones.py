"""A backbone out of a weight file, as what is evaluated: built from the file's own tensors, frozen, in eval mode."""

from pathlib import Path

from pretrain.models import weights
from pretrain.models.vit import VisionTransformer


def open_backbone(path: str | Path, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """A pretrained backbone from its export, a training state (its teacher's) or public weights; on the CPU.

    The arguments and errors are those of `weights.read_backbone` and `weights.build_backbone`.
    """
    file = weights.read_backbone(path)
    backbone = weights.build_backbone(file, num_heads, drop_path_rate)
    weights.fill_backbone(backbone, file)
    return backbone


def build_backbone(path: str | Path, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """An untrained backbone of the shape of the one in `path`: what `open_backbone` is to be compared with."""
    return weights.build_backbone(weights.read_backbone(path), num_heads, drop_path_rate)
