"""Weights into detectors: a backbone's, ours or public ones, or a whole detector's checkpoint."""

import logging
import re
from collections import Counter
from pathlib import Path

from torch import Tensor, nn

from cropfield.categories import in_metadata, other_classes, places, reorder
from pretrain.errors import UserError
from pretrain.files import read_tensors
from pretrain.models.weight_layouts import abbreviated, backbone_file, check_numbers
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
    """Fill a detector from a file: a backbone's weights go to its ViT, a whole detector's checkpoint to all of it.

    Args:
        path: a file, or an address, see `local_file`.
        partial: see `load_backbone`; of a whole detector, what does not fit and outputs of other classes keep their
            initial values, and a line says what was kept.
        categories: of the model's outputs, see `cropfield.categories`; a detector of the same classes in another order
            is put into this one.
        whole: refuse a file that holds a backbone only.
        content: what `read_tensors` gave of the file, where it has been read.

    Returns:
        the backbone's report; None after a whole detector was loaded.

    Raises:
        UserError: as `load_backbone`, or a detector's checkpoint that does not fit this detector, or has other classes.
    """
    from pretrain.engine.addresses import local_file  # here: a package that only wants the backbone needs no engine

    tensors, metadata = content or read_tensors(local_file(path))
    state = {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
    if not any(name.startswith(_DETECTOR_PARTS) for name in state):
        if whole:
            raise UserError(
                f"{path} holds a backbone only, and the detector's heads would stay random; give a detector's "
                "checkpoint (model_final.pth)"
            )
        return fill_backbone(find_backbone(model), backbone_file(path, tensors, metadata), partial)
    wanted = model.state_dict()
    state = in_our_order(state, wanted, categories, in_metadata(metadata, path), path, partial)
    wrong = [name for name in wanted if name not in state or wanted[name].shape != state[name].shape]
    wrong = [name for name in wrong if not name.startswith("pixel_")]
    if wrong and partial:
        logger.warning("%s: %d tensors start anew: %s", path, len(wrong), abbreviated(wrong, most=8))
        state = {name: value for name, value in state.items() if name not in wrong}
        if not any(name in wanted for name in state):
            raise UserError(f"{path} is another detector's checkpoint: nothing in it fits; choose other weights")
    elif wrong:
        raise UserError(
            f"{path} is another detector's checkpoint: {abbreviated(wrong)} do not fit; choose the config it fits, "
            "and the dataset.train_json of its training, or start from what fits with train.init_partial=True"
        )
    check_numbers(path, state, wanted)
    model.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})
    kept = by_part([name for name in wanted if name in state])
    logger.info("%s: %d of %d tensors of the detector loaded: %s", path, len(wanted) - len(wrong), len(wanted), kept)
    return None


def by_part(names: list[str]) -> str:
    """ "backbone.net 150, proposal_generator.rpn_head 6": how many tensors of each part of a detector."""
    counts = Counter(".".join(name.split(".")[: 1 + name.startswith(("backbone.", "roi_heads."))]) for name in names)
    return ", ".join(f"{part} {count}" for part, count in counts.items())


def in_our_order(
    state: dict, wanted: dict, ours: list[dict] | None, theirs: list[dict] | None, path: str | Path, partial: bool
) -> dict:
    """A detector's weights with the outputs of its classes (`theirs`) where this one has them (`ours`).

    Raises:
        UserError: other classes, or a kind of detector whose classes cannot be moved.
    """
    if not ours:
        return state
    if not theirs:
        logger.info("%s does not say which classes it knows: they are taken to be the dataset's, in its order", path)
        return state
    order = places(path, theirs, ours, partial)
    if len(theirs) == len(ours) == len(order) and all(our == their for our, their in order.items()):
        return state
    moved = reorder(state, wanted, order, len(theirs), len(ours))
    if moved is None and not partial:
        raise other_classes(path, theirs, ours)
    if moved is None:  # who knows where this kind of detector keeps its classes
        return {name: value for name, value in state.items() if not _OUTPUTS.search(name)}
    logger.info("%s: %d of %d classes found by their names and put in the dataset's order", path, len(order), len(ours))
    return moved


def find_backbone(model: nn.Module) -> nn.Module:
    """The ViT inside a detector: Detectron2's `backbone.net`, or `backbone` itself."""
    backbone = getattr(model, "backbone", model)
    net = getattr(backbone, "net", backbone)
    if not hasattr(net, "patch_embed"):
        raise UserError(
            f"the detector's backbone is a {type(net).__name__} and not a ViT; a backbone file cannot fill it"
        )
    return net
