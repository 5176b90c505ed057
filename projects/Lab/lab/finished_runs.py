"""Load a finished pretraining run for inspection: its method, its backbone before and after, its first batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from cropfield.canvas import as_rgb
from pretrain.data.batches import CropLoader, ImageSource
from pretrain.data.decode import BrokenImage
from pretrain.data.images import open_source
from pretrain.engine.checkpoint import LAST, load_checkpoint
from pretrain.engine.lazy_config import make
from pretrain.engine.yaml_config import nodes, plain_part, read_config
from pretrain.errors import UserError
from pretrain.methods.student_teacher import StudentTeacher
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import read_backbone

NUM_IMAGES = 4
# Classes that a run's config may instantiate: none writes files or runs code from the config. Runs of guest methods are
# refused, because their code is unknown.
BUILT = frozenset(
    """
fvcore.common.param_scheduler.CosineParamScheduler
fvcore.common.param_scheduler.LinearParamScheduler
pretrain.data.augment.Photometric
pretrain.data.augment.dinov2_photometric
pretrain.data.augment.jitter_photometric
pretrain.data.augment.no_photometric
pretrain.data.crops.MultiCrop
pretrain.data.images.open_source
pretrain.data.masks.CropMasks
pretrain.data.masks.square_grid
pretrain.methods.distillation.SelfDistillation
pretrain.models.vit.VisionTransformer
stop.jepa.JEPA
stop.masks.MultiBlockMasks
stop.predictor.Predictor
""".split()
)
MAX_SIZE, MAX_BATCH, MAX_NUMBER = 4096, 65_536, 10**8  # pixels or crops; images; steps, the largest in a model's config
MAX_DEPTH = 1_000


@dataclass(frozen=True)
class Pretraining:
    """A finished run.

    untrained, trained: the initial backbone, and the teacher's after `steps` steps. batch: the first step's batch (see
    `pretrain.data.batches`). images: its first images, uint8 RGB (H, W, 3), of other bands as `as_rgb` shows
    them.
    """

    untrained: VisionTransformer
    trained: VisionTransformer
    steps: int
    batch: dict[str, Tensor]
    images: list[np.ndarray]

    def crops_of(self, image: int) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """For each crop of a batch's image: "global" or "local", uint8 (3, S, S), and its box (4,) in the image and in
        the field.
        """
        step, found = len(self.batch["index"]), []
        for kind in ("global", "local"):
            names = [f"{kind}_{part}" for part in ("crops", "image_boxes", "boxes")]
            if names[0] in self.batch:
                found += [
                    (kind, *crop) for crop in zip(*(self.batch[n][image::step].numpy() for n in names), strict=True)
                ]
        return found


def rebuild_pretraining(folder: Path, images: Path | None = None) -> Pretraining | None:
    """Load the run in `folder` for the report; None without a checkpoint or config.

    Args:
        folder: train.output_dir of the run.
        images: where its images are now; None: as in the config.

    Raises:
        UserError: the checkpoint or config is broken, they do not match, or the images are missing.
    """
    if not (folder / LAST).is_file() or not (folder / "config.yaml").is_file():
        return None
    run = read_run_config(folder)
    untrained, trained, steps = backbones(run, folder / LAST)
    batch, shown = first_batch(run, open_source(images) if images else run.source())
    return Pretraining(untrained, trained, steps, batch, shown)


@dataclass(frozen=True)
class RunConfig:
    """The required parts of a run's config.yaml: plain dicts, whose targets are all in `BUILT`, and numbers."""

    path: Path
    model: dict
    data: dict  # source, crops, masks
    seeds: tuple[int, int]  # of the model, of the data
    batch_size: int

    def source(self) -> ImageSource:
        place = {"index": None}  # the config may be untrusted, so it must not name a file to write
        return self.make(self.data["source"] | place, "dataloader.train.source")

    def method(self, checkpoint: Path, state: dict[str, Tensor]) -> nn.Module:
        """The method with its initial weights; UserError if it would have more parameters than `state`."""
        with torch.device("meta"), no_larger_than(state, checkpoint):
            self.make(self.model | ({"init": ""} if "init" in self.model else {}), "model")
        seed_all_rng(self.seeds[0])  # as the run did, right before it built its model
        return self.make(self.model, "model")

    def make(self, part: dict, key: str):
        return make(part, f"{self.path}: {key}", "the config is damaged, or of another version")


def read_run_config(folder: Path) -> RunConfig:
    """Read the config of the run in `folder`; UserError unless all its targets are allowed and its sizes plausible."""
    path = folder / "config.yaml"
    cfg = read_config(path)
    model = plain_part(cfg, "model", BUILT, path)
    data = {part: plain_part(cfg, f"dataloader.train.{part}", BUILT, path) for part in ("source", "crops", "masks")}
    numbers = [plain_part(cfg, key, BUILT, path) for key in ("train.seed", "dataloader.train.seed")]
    batch_size = plain_part(cfg, "dataloader.train.batch_size", BUILT, path)
    for name, part, most in (
        ("model", model, MAX_NUMBER),
        ("crops", data["crops"], MAX_SIZE),
        ("masks", data["masks"], MAX_SIZE),
    ):
        for key, value in nodes(part, name):
            limit = MAX_DEPTH if key.endswith("depth") else most
            if isinstance(value, int | float) and not abs(value) <= limit:
                raise UserError(
                    f"{path}: {key} is {str(value)[:20]}, and nothing larger than {limit:,} is built; correct it"
                )
    if not all(type(value) is int and value >= 0 for value in numbers) or batch_size not in range(1, MAX_BATCH):
        raise UserError(f"{path}: a seed or the batch size is not a sensible whole number; the config is damaged")
    if not all(isinstance(part, dict) for part in (model, *data.values())):
        raise UserError(f"{path}: model, source, crops or masks is a value and no call; the config is damaged")
    return RunConfig(path, model, data, tuple(numbers), batch_size)


@contextmanager
def no_larger_than(state: dict[str, Tensor], checkpoint: Path) -> Iterator[None]:
    """While modules are built on the "meta" device, raise UserError if they have more parameters than `state`.

    This stops a config with ten million blocks before it exhausts the machine.
    """
    left = [sum(value.numel() for value in state.values()), len(state)]

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        left[0] -= 0 if parameter is None else parameter.numel()
        left[1] -= parameter is not None
        if min(left) < 0:
            raise UserError(f"{checkpoint}: does not belong to the config beside it: that makes a larger model")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def backbones(run: RunConfig, checkpoint: Path) -> tuple[VisionTransformer, VisionTransformer, int]:
    """The initial backbone, rebuilt from the run's seed; the teacher's backbone; and the number of training steps.

    Raises:
        UserError: the checkpoint is broken or from another config.
    """
    state = load_checkpoint(checkpoint)
    untrained = run.method(checkpoint, state["model"]).backbone.eval().requires_grad_(False)
    trained = deepcopy(untrained)
    fill(trained, read_backbone(checkpoint).state, checkpoint)
    return untrained, trained, state["iteration"]


def trained_method(folder: Path) -> StudentTeacher:
    """The method of the run in `folder` from its last checkpoint, for evaluation.

    Raises:
        UserError: `folder` has no checkpoint and config of a run, they are broken, or they do not match.
    """
    run, checkpoint = read_run_config(folder), folder / LAST
    state = load_checkpoint(checkpoint)["model"]
    method = run.method(checkpoint, state).eval().requires_grad_(False)
    fill(method, state, checkpoint)
    return method


def fill(module: nn.Module, state: dict[str, Tensor], checkpoint: Path) -> None:
    """Load a module's `state` from `checkpoint` into it."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint}: does not belong to the config beside it: {reason}") from error


def first_batch(run: RunConfig, source: ImageSource) -> tuple[dict[str, Tensor], list[np.ndarray]]:
    """The batch of the run's first step, and its first images."""
    crops, masks = (run.make(run.data[part], f"dataloader.train.{part}") for part in ("crops", "masks"))
    loader = CropLoader(source, crops, masks, run.batch_size, num_workers=0, seed=run.seeds[1], max_broken=1.0)
    batch = next(loader.batches(0))
    images = []
    for index in batch["index"].tolist()[:NUM_IMAGES]:
        try:
            images.append(as_rgb(source.load(index)))
        except BrokenImage as error:
            raise UserError(f"{error}: an image of the first step is broken now; restore it") from error
    return batch, images
