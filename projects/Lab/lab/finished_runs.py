"""A finished pretraining run, to be looked at: its method, its backbone before and after, its first batch."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import instantiate
from detectron2.utils.env import seed_all_rng
from omegaconf import DictConfig
from torch import Tensor, nn

from pretrain.data.batches import CropLoader, ImageSource
from pretrain.data.images import BrokenImage, open_source
from pretrain.engine.checkpoint import LAST, load_checkpoint
from pretrain.engine.saved_config import read_config
from pretrain.errors import UserError
from pretrain.methods.student_teacher import StudentTeacher
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import read_backbone

NUM_IMAGES = 4


@dataclass(frozen=True)
class Pretraining:
    """`untrained` and `trained`: the backbone as it started, and the teacher's now, after `steps` steps. `batch`: the
    batch of the first step (see `pretrain.data.batches`). `images`: its first images, uint8 RGB (H, W, 3)."""

    untrained: VisionTransformer
    trained: VisionTransformer
    steps: int
    batch: dict[str, Tensor]
    images: list[np.ndarray]

    def crops_of(self, image: int) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """Each crop of an image of the batch: "global" or "local", uint8 (3, S, S), and its box (4,) in the image and
        in the field."""
        step, found = len(self.batch["index"]), []
        for kind in ("global", "local"):
            names = [f"{kind}_{part}" for part in ("crops", "image_boxes", "boxes")]
            if names[0] in self.batch:
                found += [
                    (kind, *crop) for crop in zip(*(self.batch[n][image::step].numpy() for n in names), strict=True)
                ]
        return found


def rebuild_pretraining(folder: Path, images: Path | None = None) -> Pretraining | None:
    """What the report shows of the run in `folder`; None where the run left no checkpoint or config.

    Args:
        folder: train.output_dir of the run.
        images: where its images are now; None: where the config says.

    Raises:
        UserError: the checkpoint or the config is broken, they do not belong together, or the images are gone.
    """
    if not (folder / LAST).is_file() or not (folder / "config.yaml").is_file():
        return None
    cfg = read_config(folder / "config.yaml")
    untrained, trained, steps = backbones(cfg, folder / LAST)
    source = open_source(images) if images else instantiate(cfg.dataloader.train.source)
    batch, shown = first_batch(cfg, source)
    return Pretraining(untrained, trained, steps, batch, shown)


def backbones(cfg: DictConfig, checkpoint: Path) -> tuple[VisionTransformer, VisionTransformer, int]:
    """The backbone with its initial values, made again from the run's seed; the teacher's backbone; the steps it was
    trained.

    Raises:
        UserError: the checkpoint is broken or of another config.
    """
    steps = load_checkpoint(checkpoint)["iteration"]
    seed_all_rng(cfg.train.seed)  # as the run did, right before it built its model
    untrained = instantiate(cfg.model).backbone.eval().requires_grad_(False)
    trained = deepcopy(untrained)
    fill(trained, read_backbone(checkpoint).state, checkpoint)
    return untrained, trained, steps


def trained_method(folder: Path) -> StudentTeacher:
    """The method of the run in `folder`, as its last checkpoint has it, to be evaluated.

    Raises:
        UserError: no run's checkpoint and config are in `folder`, they are broken, or do not belong together.
    """
    cfg, checkpoint = read_config(folder / "config.yaml"), folder / LAST
    method = instantiate(cfg.model).eval().requires_grad_(False)
    fill(method, load_checkpoint(checkpoint)["model"], checkpoint)
    return method


def fill(module: nn.Module, state: dict[str, Tensor], checkpoint: Path) -> None:
    """Load into what the config made the state that `checkpoint` has of it."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint}: does not belong to the config beside it: {reason}") from error


def first_batch(cfg: DictConfig, source: ImageSource) -> tuple[dict[str, Tensor], list[np.ndarray]]:
    """The batch that the run's first step saw, and its first images."""
    train = cfg.dataloader.train
    crops, masks = instantiate(train.crops), instantiate(train.masks)
    loader = CropLoader(source, crops, masks, train.batch_size, num_workers=0, seed=train.seed, max_broken=1.0)
    batch = next(loader.batches(0))
    images = []
    for index in batch["index"].tolist()[:NUM_IMAGES]:
        try:
            images.append(source.load(index))
        except BrokenImage as error:
            raise UserError(f"{error}: an image of the first step is broken now; restore it") from error
    return batch, images
