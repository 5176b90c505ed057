"""A trunk out of a weight file, as what is evaluated: built from the file's own tensors, frozen, in eval mode."""

import logging
from pathlib import Path

from pretrain.models import weights
from pretrain.models.vit import VisionTransformer

logger = logging.getLogger(__name__)


def open_trunk(path: str | Path, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """The trunk of a backbone file, a training state (its teacher) or public weights; on the CPU.

    The arguments and errors are those of `weights.read_trunk` and `weights.build_trunk`.
    """
    file = weights.read_trunk(path)
    trunk = weights.build_trunk(file, num_heads, drop_path_rate)
    logger.info(str(weights.fill_trunk(trunk, file)))
    return trunk


def build_trunk(path: str | Path, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """An untrained trunk of the shape of the one in `path`: what `open_trunk` is to be compared with."""
    return weights.build_trunk(weights.read_trunk(path), num_heads, drop_path_rate)
