"""Load weights into detectors: a backbone's, ours or public, or a whole detector's checkpoint."""

import logging
import re
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from cropfield.categories import in_metadata, other_classes, places, reorder
from pretrain.errors import UserError
from pretrain.files import read_tensors
from pretrain.models.weight_layouts import (
    PATCH_WEIGHT,
    abbreviated,
    backbone_file,
    recorded_numbers,
    refuse_not_finite,
)
from pretrain.models.weights import LoadReport, fill_backbone

logger = logging.getLogger(__name__)

_OUTPUTS = re.compile(r"^(?!proposal_generator\.).*(cls_|class_|predictor|logits)")  # layers that may know classes
_WRAPPERS = re.compile(r"^((model|state_dict|module)\.)+")  # of other trainers, and of DistributedDataParallel
# A file with any of these is a whole detector.
_DETECTOR_PARTS = ("proposal_generator.", "roi_heads.", "backbone.simfp_", "sem_seg_head.")


def load_weights(
    model: nn.Module,
    path: str | Path,
    partial: bool = False,
    categories: list[dict] | None = None,
    whole: bool = False,
    content: tuple[dict[str, Tensor], dict[str, str]] | None = None,
) -> LoadReport | None:
    """Load a file into a detector: backbone weights into its ViT, a detector checkpoint into all of it.

    Args:
        path: a file or a URL; see `local_file`.
        partial: see `load_backbone`; for a detector, tensors that do not fit and outputs of other classes keep their
            initial values, which is logged.
        categories: of the model's outputs, see `cropfield.categories`; a checkpoint with the same classes in another
            order is reordered.
        whole: refuse a file that contains a backbone only.
        content: the result of `read_tensors` for the file, if it has been read.

    Returns:
        The backbone's report; None if a whole detector was loaded.

    Raises:
        UserError: as `load_backbone`, or a detector checkpoint that does not fit or has other classes.
    """
    from pretrain.engine.addresses import local_file  # imported here: using only the backbone needs no engine

    tensors, metadata = content or read_tensors(local_file(path))
    state = {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
    if not any(name.startswith(_DETECTOR_PARTS) for name in state):
        if whole:
            raise UserError(
                f"{path} contains only a backbone, and the detector's heads would stay random; give a detector's "
                "checkpoint (model_final.pth)"
            )
        warn_of_other_pixels(model, path, metadata)
        return fill_backbone(find_backbone(model), backbone_file(path, tensors, metadata), partial)
    wanted = model.state_dict()
    state = in_our_order(state, wanted, categories, in_metadata(metadata, path), path, partial)
    check_bands(path, state, wanted)
    wrong = [name for name in wanted if name not in state or wanted[name].shape != state[name].shape]
    wrong = [name for name in wrong if not name.startswith("pixel_")]
    if wrong and partial:
        logger.warning("%s: %d tensors keep their initial values: %s", path, len(wrong), abbreviated(wrong, most=8))
        state = {name: value for name, value in state.items() if name not in wrong}
        if not any(name in wanted for name in state):
            raise UserError(f"{path} is another detector's checkpoint: nothing in it fits; choose other weights")
    elif wrong:
        raise UserError(
            f"{path} is another detector's checkpoint: {abbreviated(wrong)} do not fit; choose the config it fits, "
            "and the dataset.train_json of its training, or start from what fits with train.init_partial=True"
        )
    check_numbers(path, {name: state[name] for name in wanted if name in state}, wanted)
    model.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})
    kept = by_part([name for name in wanted if name in state])
    logger.info("%s: %d of %d tensors of the detector loaded: %s", path, len(wanted) - len(wrong), len(wanted), kept)
    return None


def warn_of_other_pixels(model: nn.Module, path: str | Path, metadata: dict[str, str]) -> None:
    """Log a warning if a detector normalises its pixels in another way than the backbone's pretraining did."""
    for ours, theirs in (("pixel_mean", "image_mean"), ("pixel_std", "image_std")):
        known = recorded_numbers(metadata, theirs)
        if known is None or not hasattr(model, ours):
            continue
        mine = getattr(model, ours).flatten().cpu()
        mine = mine.flip(0) if getattr(model, "input_format", "RGB") == "BGR" else mine
        if len(mine) != len(known) or not torch.allclose(mine, mine.new_tensor(known), rtol=1e-3):
            values = known, ours, mine.tolist()
            logger.warning("%s: pretrained with %s %s, and model.%s is %s; set that", path, theirs, *values)


def check_bands(path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise UserError if a detector is for images of another number of bands."""
    name = f"backbone.net.{PATCH_WEIGHT}"
    if name in state and name in wanted and state[name].dim() == 4 and state[name].shape[1] != wanted[name].shape[1]:
        theirs, ours = state[name].shape[1], wanted[name].shape[1]
        raise UserError(
            f"{path} is a detector of images of {theirs} bands, and the config's takes {ours}; set "
            f"model.backbone.net.in_chans={theirs}, or start from a backbone of RGB, which is adapted"
        )


def check_numbers(path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise UserError if a weight is not finite, or an integer where the model has floating point, as if quantized."""
    refuse_not_finite(path, found)
    whole = [n for n, value in found.items() if wanted[n].is_floating_point() and not value.is_floating_point()]
    if whole:
        kind = str(found[whole[0]].dtype).removeprefix("torch.")
        raise UserError(
            f"{path}: the weights {abbreviated(whole)} are {kind} and no floating-point numbers; give the weights from "
            "before they were converted or quantized"
        )


def by_part(names: list[str]) -> str:
    """Count tensors by part of the detector: "backbone.net 150, proposal_generator.rpn_head 6"."""
    counts = Counter(".".join(name.split(".")[: 1 + name.startswith(("backbone.", "roi_heads."))]) for name in names)
    return ", ".join(f"{part} {count}" for part, count in counts.items())


def in_our_order(
    state: dict, wanted: dict, ours: list[dict] | None, theirs: list[dict] | None, path: str | Path, partial: bool
) -> dict:
    """Reorder a checkpoint's class outputs from its classes (`theirs`) to this detector's (`ours`).

    Raises:
        UserError: other classes, or a kind of detector whose classes cannot be reordered.
    """
    if not ours:
        return state
    if not theirs:
        logger.info("%s does not record its classes: assuming the dataset's, in the same order", path)
        return state
    order = places(path, theirs, ours, partial)
    if len(theirs) == len(ours) == len(order) and all(our == their for our, their in order.items()):
        return state
    moved = reorder(state, wanted, order, len(theirs), len(ours))
    if moved is None and not partial:
        raise other_classes(path, theirs, ours)
    if moved is None:  # the layout of this kind of detector is not supported
        return {name: value for name, value in state.items() if not _OUTPUTS.search(name)}
    logger.info("%s: %d of %d classes matched by name and put in the dataset's order", path, len(order), len(ours))
    return moved


def find_backbone(model: nn.Module) -> nn.Module:
    """The ViT in a detector: Detectron2's `backbone.net`, or `backbone` itself."""
    backbone = getattr(model, "backbone", model)
    net = getattr(backbone, "net", backbone)
    if not hasattr(net, "patch_embed"):
        raise UserError(
            f"the detector's backbone is a {type(net).__name__} and not a ViT; a backbone file cannot fill it"
        )
    return net
