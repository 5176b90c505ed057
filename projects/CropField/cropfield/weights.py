"""Weights into detectors: a backbone's, ours or public ones, or a whole detector's checkpoint."""

import logging
from pathlib import Path

from torch import nn

from pretrain.errors import UserError
from pretrain.files import read_tensors
from pretrain.models.weight_layouts import abbreviated, backbone_file
from pretrain.models.weights import LoadReport, fill_backbone

logger = logging.getLogger(__name__)

# A file with any of these is a whole detector.
_DETECTOR_PARTS = ("proposal_generator.", "roi_heads.", "backbone.simfp_", "sem_seg_head.")


def load_weights(model: nn.Module, path: str | Path, partial: bool = False) -> LoadReport | None:
    """Fill a detector from a file: a backbone's weights go to its ViT, a whole detector's checkpoint to all of it.

    Args:
        partial: see `load_backbone`.

    Returns:
        the backbone's report; None after a whole detector was loaded.

    Raises:
        UserError: as `load_backbone`, or a detector's checkpoint that does not fit this detector.
    """
    tensors, metadata = read_tensors(path)
    state = {name.removeprefix("model."): value for name, value in tensors.items()}
    if not any(name.startswith(_DETECTOR_PARTS) for name in state):
        return fill_backbone(find_backbone(model), backbone_file(path, tensors, metadata), partial)
    wanted = model.state_dict()
    wrong = [name for name in wanted if name not in state or wanted[name].shape != state[name].shape]
    wrong = [name for name in wrong if not name.startswith("pixel_")]
    if wrong:
        raise UserError(
            f"{path} is another detector's checkpoint: {abbreviated(wrong)} do not fit; choose the config it fits"
        )
    model.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})
    logger.info("%s: all %d tensors of the detector loaded", path, len(wanted))
    return None


def find_backbone(model: nn.Module) -> nn.Module:
    """The ViT inside a detector: Detectron2's `backbone.net`, or `backbone` itself."""
    backbone = getattr(model, "backbone", model)
    net = getattr(backbone, "net", backbone)
    if not hasattr(net, "patch_embed"):
        raise UserError(f"the detector's backbone is a {type(net).__name__} and no ViT: a backbone file cannot fill it")
    return net
