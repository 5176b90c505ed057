"""Open a weight file for evaluation: the backbone with the file's architecture, frozen, in eval mode."""

from pathlib import Path

from pretrain.models import weights
from pretrain.models.vit import VisionTransformer


def open_backbone(path: str | Path, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """Load a backbone from an export, a training state (its teacher) or public weights; on the CPU.

    For arguments and errors see `weights.read_backbone` and `weights.build_backbone`.
    """
    file = weights.read_backbone(path)
    backbone = weights.build_backbone(file, num_heads, drop_path_rate)
    weights.fill_backbone(backbone, file)
    return backbone


def build_backbone(path: str | Path, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """Build an untrained backbone with the architecture of the file `path`, as the baseline of `open_backbone`."""
    return weights.build_backbone(weights.read_backbone(path), num_heads, drop_path_rate)
