"""Weights into detectors: a backbone file, ours or a public one, to the trunk, or a whole detector's checkpoint."""

import logging
from pathlib import Path

from torch import nn

from pretrain.errors import UserError
from pretrain.models.load_trunk import LoadReport, load_trunk
from pretrain.models.public_weights import some
from pretrain.models.weight_files import read_tensors

logger = logging.getLogger(__name__)

# A file with any of these is a whole detector.
_DETECTOR_PARTS = ("proposal_generator.", "roi_heads.", "backbone.simfp_", "sem_seg_head.")


def load_weights(model: nn.Module, path: str | Path, partial: bool = False) -> LoadReport | None:
    """Fill a detector from a file: a backbone file goes to its trunk, a whole detector's checkpoint to all of it.

    Args:
        partial: see `load_backbone`.

    Returns:
        the trunk's report; None after a whole detector was loaded.

    Raises:
        UserError: as `load_backbone`, or a detector's checkpoint that does not fit this detector.
    """
    state = {name.removeprefix("model."): value for name, value in read_tensors(path)[0].items()}
    if not any(name.startswith(_DETECTOR_PARTS) for name in state):
        return load_backbone(find_trunk(model), path, partial)
    wanted = model.state_dict()
    wrong = [name for name in wanted if name not in state or wanted[name].shape != state[name].shape]
    wrong = [name for name in wrong if not name.startswith("pixel_")]
    if wrong:
        raise UserError(f"{path} is another detector's checkpoint: {some(wrong)} do not fit; choose the config it fits")
    model.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})
    logger.info("%s: all %d tensors of the detector loaded", path, len(wanted))
    return None


def find_trunk(model: nn.Module) -> nn.Module:
    """The ViT inside a detector: Detectron2's `backbone.net`, or `backbone` itself."""
    backbone = getattr(model, "backbone", model)
    trunk = getattr(backbone, "net", backbone)
    if not hasattr(trunk, "patch_embed"):
        raise UserError(
            f"the detector's backbone is a {type(trunk).__name__} and no ViT: a backbone file cannot fill it"
        )
    return trunk


def load_backbone(trunk: nn.Module, path: str | Path, partial: bool = False) -> LoadReport:
    """Fill a trunk (`CropFieldViT`, or Detectron2's `ViT`) from a backbone file, or change nothing and raise.

    Takes our exports and the ViTs of DINO, iBOT, DINOv2, MAE, DeiT and timm as they are published; what is converted
    and what is interpolated: `pretrain.models.load_trunk.load_trunk`.

    Args:
        partial: take what fits and leave the rest at its initial values; else the trunk must match whole.

    Raises:
        UserError: the file cannot be read or is no plain ViT, or the trunk would not match whole.
    """
    report = load_trunk(trunk, path, partial)
    (logger.warning if report.missing else logger.info)(str(report))
    return report
