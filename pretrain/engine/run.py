"""One pretraining run, from its config to its last checkpoint."""

import logging
from functools import partial
from pathlib import Path

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf

from pretrain.data import pixel_statistics
from pretrain.data.batches import CropLoader
from pretrain.data.images import refuse_among
from pretrain.engine.addresses import local_file
from pretrain.engine.broken_images import LISTED, BrokenImagesReport
from pretrain.engine.checkpoint import BEST, INITIAL, LAST, PeriodicCheckpoint, backbone_metadata, restore
from pretrain.engine.config_values import check_config
from pretrain.engine.cpu_memory import tune_cpu_memory
from pretrain.engine.devices import check_usable
from pretrain.engine.distributed import check_device, seed_rank
from pretrain.engine.forms import Pretraining
from pretrain.engine.lazy_config import build
from pretrain.engine.param_groups import with_plain_options
from pretrain.engine.saved_config import as_yaml, warn_of_changes
from pretrain.engine.schedules import OptimizerSchedule, scaled_lr
from pretrain.engine.signals import StopOnSignal
from pretrain.engine.summary import Summary
from pretrain.engine.trainer import PretrainTrainer
from pretrain.engine.writers import PeriodicWriter, mirror_to_wandb
from pretrain.errors import UserError
from pretrain.files import write_text
from pretrain.models.weights import write_backbone
from pretrain.outputs import is_output, open_output, output_path, refuse_finished
from pretrain.ranges import check_schedule

logger = logging.getLogger(__name__)
WRITTEN = ("config.yaml", "log.txt", "metrics.json", INITIAL, BEST, LISTED, "detection_probe.json")
WRITTEN += ("step_*.pth",)
RESULTS = ("last_checkpoint", "model_*.pth", "result.json", "step_*.pth")  # of runs of any kind


def pretrain(cfg: DictConfig, resume: bool = False) -> Path:
    """Run the pretraining that `cfg` describes and return its last checkpoint; in each process of the run.

    Raises:
        UserError: bad data, a config that contradicts itself, or an output folder that holds another run.
        SystemExit: a signal stopped the run (`StopOnSignal`); resume goes on.
    """
    check_config(cfg, Pretraining)
    output = output_path(cfg.train.output_dir, "train.output_dir")
    checkpoint = output / LAST
    if checkpoint.exists() and not resume:
        raise UserError(f"{checkpoint} exists; add --resume to go on with it, or choose another train.output_dir")
    if not checkpoint.exists() and is_output(output):
        refuse_finished(output, RESULTS, f"choose another train.output_dir, or put its {LAST} back and add --resume")
        if not resume:  # of a run that was stopped before its first checkpoint
            refuse_finished(output, [BEST], "choose another train.output_dir, or add --resume to begin that run again")
    check_device(cfg.train.device)
    check_usable(cfg.train.device)
    if cfg.train.device == "cpu":
        tune_cpu_memory()
    check_statistics(cfg)
    loader = build(cfg, "dataloader.train")  # before any folder is made: bad data leaves no trace
    if not checkpoint.exists():
        refuse_among(output, loader.source)
    if comm.is_main_process():
        open_output(output, written=() if checkpoint.exists() else WRITTEN)
    setup_logger(str(output), comm.get_rank(), name="pretrain", abbrev_name="pretrain")
    setup_logger(str(output), comm.get_rank(), name="detectron2", abbrev_name="d2")
    if kinds := getattr(loader.source, "kinds", ""):
        logger.info(f"images by the kind of file: {kinds}")
    if bands := getattr(loader.source, "bands", ""):
        logger.warning(bands)
    if channels_of(cfg) != 3:
        logger.info(f"{channels_of(cfg)} bands: saturation, hue and grey are left out of the augmentation")
    resolve_length_and_lr(cfg, loader)
    config = as_yaml(cfg)
    if comm.is_main_process() and checkpoint.exists():
        warn_of_changes(output / "config.yaml", config)
    resolve_warm_start(cfg, resumed=checkpoint.exists())

    trainer = build_trainer(cfg, loader)
    model = trainer.model
    trainer.register_hooks(make_hooks(cfg, trainer, output))
    start = 0
    if checkpoint.exists():
        start = restore(checkpoint, model, trainer.optimizer, loader.batch_size, cfg.train.max_iter)
    if len(set(comm.all_gather(start))) > 1:
        raise UserError(f"not every process finds {checkpoint}; put train.output_dir where all machines see it")
    if comm.is_main_process():  # the last hook: by then the others have refused what they will
        trainer.register_hooks([hooks.CallbackHook(before_train=partial(write_beginning, output, config))])
    trainer.train(start, cfg.train.max_iter)
    return checkpoint


def write_beginning(output: Path, config: str, trainer: PretrainTrainer) -> None:
    """Write config.yaml, and a new run's first backbone; a run to which no step is added keeps what it has."""
    start, model = trainer.start_iter, trainer.model
    if start < trainer.max_iter:
        write_text(output / "config.yaml", config)
    if not start:
        write_backbone(output / INITIAL, model.backbone.state_dict(), backbone_metadata(model, start))


def channels_of(cfg: DictConfig) -> int:
    """Bands of an image, in a pretraining config; a guest's may have no such key."""
    return OmegaConf.select(cfg, "model.backbone.in_chans", default=3)


def check_statistics(cfg: DictConfig) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of pixels; None for a guest method with none. Raises UserError unless there is one a band."""
    if "image_mean" not in cfg.model and channels_of(cfg) == 3:
        return None
    return pixel_statistics(channels_of(cfg), cfg.model.get("image_mean"), cfg.model.get("image_std"))


def build_trainer(cfg: DictConfig, loader: CropLoader) -> PretrainTrainer:
    """Model, optimizer and trainer; the weights are the same on every rank, the paths that are dropped are not."""
    seed_all_rng(cfg.train.seed)
    model = build(cfg, "model").to(cfg.train.device)
    check_patches(model.backbone.patch_size, loader)
    cfg.optimizer.params.model = model
    optimizer = with_plain_options(build(cfg, "optimizer"))
    if comm.get_world_size() > 1:
        seed_rank(cfg.train.seed)
    if cfg.train.compile:
        model.compile_parts()
    train = cfg.train
    return PretrainTrainer(model, loader, optimizer, train.amp.enabled, train.clip_grad, train.accumulate)


def check_patches(patch: int, loader: CropLoader) -> None:
    """Raise UserError unless crops divide into patches of `patch` pixels and masks have a global crop's grid."""
    crops, masks = loader.dataset.crops, loader.dataset.masks
    sizes = {"global_size": crops.global_size} | ({"local_size": crops.local_size} if crops.num_local else {})
    for name, size in sizes.items():
        if size % patch:
            raise UserError(
                f"dataloader.train.crops.{name}: {size} pixels do not divide into patches of {patch}; choose a multiple"
            )
    side = crops.global_size // patch
    if tuple(masks.grid) != (side, side):
        raise UserError(
            f"dataloader.train.masks.grid: {list(masks.grid)}, and global crops of {crops.global_size} pixels have "
            f"[{side},{side}] patches of {patch}; give that grid"
        )


def resolve_length_and_lr(cfg: DictConfig, loader: CropLoader) -> None:
    """Fill in what depends on the data and the batch size, and log by which rule."""
    images, batch_size = len(loader.source), loader.batch_size
    length = lr_rule = "as given"
    if cfg.train.max_iter is None:
        cfg.train.max_iter = max(1, round(cfg.train.epochs * max(1, images // batch_size)))
        length = f"rule: {cfg.train.epochs} epochs * ({images} // {batch_size})"
    if cfg.optimizer.lr is None:
        cfg.optimizer.lr = scaled_lr(cfg.train.base_lr, batch_size)
        lr_rule = f"rule: {cfg.train.base_lr:.3g} * sqrt({batch_size} / 1024)"
    logger.info(
        f"{images:,} images, batch size {batch_size}: {cfg.train.max_iter:,} steps ({length}), "
        f"{cfg.train.max_iter * batch_size / images:.1f} epochs; "
        f"peak learning rate {cfg.optimizer.lr:.3g} ({lr_rule}); "
        f"device {cfg.train.device}, {'bf16 autocast' if cfg.train.amp.enabled else 'float32'}"
    )


def resolve_warm_start(cfg: DictConfig, resumed: bool) -> None:
    """Check a warm start before the model is built, and fetch its weights where they are an address.

    A resumed run has weights of its own and does not read the file.

    Raises:
        UserError: heads would be warmed up on a backbone that has learned nothing.
    """
    init = cfg.model.get("init")
    if cfg.train.head_warmup and not init:
        raise UserError(
            "train.head_warmup keeps the backbone as it starts, and it starts from nothing: add model.init=FILE "
            "(weights of DINOv2, MAE, timm or a run of this project), or train.head_warmup=0"
        )
    if init:
        cfg.model.init = "" if resumed else str(local_file(init))


def make_hooks(cfg: DictConfig, trainer: PretrainTrainer, output: Path) -> list[HookBase | None]:
    """In the order in which they run: the checkpoint before what may end the run, the writers last."""
    trainer.folder = output
    lr, weight_decay = build(cfg, "lr_multiplier"), build(cfg, "weight_decay")
    check_schedule(lr, "lr_multiplier", zero=False)
    check_schedule(weight_decay, "weight_decay")
    frozen = cfg.train.freeze_prototypes, cfg.train.head_warmup
    schedule = OptimizerSchedule(trainer.optimizer, lr, weight_decay, *frozen)
    parts = trainer.model, trainer.optimizer
    checkpoint = PeriodicCheckpoint(output, *parts, batch_size=trainer.loader.batch_size, **cfg.train.checkpointer)
    watching = build(cfg, "train.hooks")
    for package in sorted({type(hook).__module__.partition(".")[0] for hook in watching} - {"pretrain", "detectron2"}):
        setup_logger(str(output), comm.get_rank(), name=package, enable_propagation=True)  # what they say is the run's
    return [
        hooks.IterationTimer(),
        schedule,
        checkpoint,
        StopOnSignal(checkpoint.save),
        BrokenImagesReport(output / LISTED, cfg.train.log_period),
        *watching,
        Summary(output / LAST),
        PeriodicWriter(make_writers(cfg), period=cfg.train.log_period) if comm.is_main_process() else None,
    ]


def make_writers(cfg: DictConfig) -> list[EventWriter]:
    """TensorBoard's comes last: it forgets the pictures once it has written them."""
    if cfg.train.wandb.enabled:
        mirror_to_wandb(project=cfg.train.wandb.project, name=cfg.train.wandb.name, dir=cfg.train.output_dir)
    return sorted(build(cfg, "train.writers"), key=lambda writer: isinstance(writer, TensorboardXWriter))
