"""Dry run of a detector's config before any work: build every part, and pass a synthetic image through training and
evaluation, so that errors show in the first seconds.
"""

import contextlib
import copy
import io
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from cropfield.feature_cache import check_cacheable, writable
from cropfield.forms import Detection
from cropfield.recipe import precision
from cropfield.schedule import BatchRule
from cropfield.sizes import check_channels, check_sizes
from pretrain.data.reading import AS_RGB
from pretrain.engine.config_values import check_config
from pretrain.engine.devices import check_usable
from pretrain.engine.lazy_config import build
from pretrain.errors import UserError, reason
from pretrain.ranges import check_schedule

HEIGHT, WIDTH = 96, 128
MOST_DETECTIONS = 10  # COCO also measures recall at 10 detections an image, and expects sorted limits


def try_detector(cfg: DictConfig, eval_only: bool = False) -> nn.Module:
    """Build every part of a detector's run and pass an image through it; returns the model, on the CPU, for inspection
    only.

    Args:
        eval_only: skip the parts used in training.

    Raises:
        UserError: a part rejects its arguments or its input from other parts; the message names the part.
    """
    check_config(cfg, Detection)
    check_usable(cfg.train.device)
    model = build(cfg, "model").to(cfg.train.device)
    with TemporaryDirectory() as folder, evaluator_on_trial(cfg) as evaluator:
        entry = made_up_entry(Path(folder))
        if not eval_only:
            if cached := cfg.dataloader.get("feature_cache", {}).get("folder"):
                check_cacheable(model, build(cfg, "dataloader.train.mapper"))
                writable(cached)
            BatchRule(1, 1, cfg.train.get("lr_rule", "none"))
            build_optimizer(cfg, model)
            check_schedule(build(cfg, "lr_multiplier"), "lr_multiplier", zero=False)
            try_image(cfg, "train", model.train(), entry)
        found = try_image(cfg, "test", model.eval(), entry)
        try_evaluators(evaluator, found[0])
    return model.cpu()


@contextlib.contextmanager
def evaluator_on_trial(cfg: DictConfig) -> Iterator:
    """The config's evaluator, or list of them, which writes into a folder that does not stay.

    Already when it is built Detectron2's may write annotations there, of a dataset that has no file of them.
    """
    cfg = copy.deepcopy(cfg)
    evaluators = cfg.dataloader.evaluator
    with TemporaryDirectory() as folder:
        for evaluator in evaluators if OmegaConf.is_list(evaluators) else [evaluators]:
            output = evaluator.get("output_dir")
            if not isinstance(output, str | None):
                raise UserError(f"dataloader.evaluator.output_dir is {output!r}; give the path of a folder, or null")
            if output:
                evaluator.output_dir = folder
        yield build(cfg, "dataloader.evaluator")


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of `model` from a copy of the config."""
    cfg = copy.deepcopy(cfg)
    cfg.optimizer.params.model = model
    return build(cfg, "optimizer")


def try_image(cfg: DictConfig, part: str, model: nn.Module, entry: dict):
    """Map an entry as `dataloader.<part>` does and pass it through the model, and back in training; returns the
    output.
    """
    mapper = build(cfg, f"dataloader.{part}.mapper")
    check_sizes(model, mapper.augmentations, f"dataloader.{part}.mapper")
    check_channels(model, mapper)
    with _told(f"dataloader.{part}.mapper"):
        bands = getattr(mapper, "reading", AS_RGB).channels
        image = mapper(entry) if bands == 3 else mapper(entry, made_up_pixels(bands))
    kind, training, dtype = torch.device(cfg.train.device).type, part == "train", precision(cfg)
    autocast = torch.autocast(kind, dtype, enabled=training and dtype is not None)
    with _told("model", model), EventStorage(), autocast, torch.set_grad_enabled(training):
        found = model([image])
        if training:
            sum(found.values()).backward()
            model.zero_grad()
    return found


def try_evaluators(evaluators, found: dict) -> None:
    """Evaluate a made-up detection in one of the dataset's images with each COCO evaluator.

    Args:
        evaluators: one or a list.
        found: the model's output for an image; decides whether the detection has a mask.
    """
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        if isinstance(evaluator, COCOEvaluator) and "instances" in found:
            limit = evaluator._max_dets_per_image[-1]
            if type(limit) is not int or limit < MOST_DETECTIONS:
                raise UserError(
                    f"dataloader.evaluator.max_dets_per_image is {limit!r}; give a whole number of at least "
                    f"{MOST_DETECTIONS}, or null for COCO's 100"
                )
            image = min(evaluator._coco_api.imgs.values(), key=lambda image: image["height"] * image["width"])
            evaluator.reset()
            evaluator.process([{"image_id": image["id"]}], [{"instances": made_up_detection(image, found)}])
            with _told("dataloader.evaluator", on="a made-up detection"), contextlib.redirect_stdout(io.StringIO()):
                evaluator.evaluate(img_ids=[image["id"]])


def made_up_detection(image: dict, found: dict) -> Instances:
    """A detection in `image`, a COCO file's entry, with a mask if the model predicts masks."""
    height, width = image["height"], image["width"]
    corners = torch.tensor([[0.0, 0.0, width, height]])
    detection = Instances((height, width), pred_boxes=Boxes(corners), scores=torch.ones(1))
    detection.pred_classes = torch.zeros(1, dtype=torch.long)
    if found["instances"].has("pred_masks"):
        detection.pred_masks = torch.ones(1, height, width, dtype=torch.bool)
    return detection


def made_up_pixels(bands: int) -> np.ndarray:
    """Noise, uint8 (H, W, bands)."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, bands), dtype=np.uint8)


def made_up_entry(folder: Path) -> dict:
    """An entry of a Detectron2 dataset: noise, with one object that has a box, a polygon and a label map."""
    Image.fromarray(made_up_pixels(3)).save(folder / "image.png")
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(folder / "labels.png")
    x0, y0, x1, y1 = WIDTH // 4, HEIGHT // 4, 3 * WIDTH // 4, 3 * HEIGHT // 4
    thing = {
        "bbox": [x0, y0, x1, y1], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0,
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
    }  # fmt: skip
    files = {"file_name": str(folder / "image.png"), "sem_seg_file_name": str(folder / "labels.png")}
    return {**files, "height": HEIGHT, "width": WIDTH, "image_id": 0, "annotations": [thing]}


@contextlib.contextmanager
def _told(
    key: str, model: nn.Module | None = None, on: str = f"a synthetic image of {WIDTH} x {HEIGHT} pixels"
) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        where = _innermost(error, model) if model else ""
        raise UserError(
            f"{key}{where}: fails on {on} ({type(error).__name__}: {reason(error)}); correct these values of the "
            "config, or those that they must match"
        ) from error


def _innermost(error: Exception, model: nn.Module) -> str:
    """The name, after a dot, of the innermost of the model's modules in whose own code the error occurred."""
    names = {id(module): name for name, module in model.named_modules() if name}
    found, frame = "", error.__traceback__
    while frame:
        found = names.get(id(frame.tb_frame.f_locals.get("self")), found)
        frame = frame.tb_next
    return f".{found}" if found else ""
