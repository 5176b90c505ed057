"""The two halves of a chain, pretraining and detection: split overrides between them, and check that they match."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from cropfield.datasets import check_can_be_evaluated, check_coco_file, check_same_categories
from cropfield.forms import Detection
from cropfield.recipe import detector_config
from cropfield.stages import Stage
from cropfield.trial import try_detector
from pretrain.data.images import open_source, refuse_among
from pretrain.data.reading import MAX_PIXELS, Reading
from pretrain.engine.forms import Pretraining
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import check_statistics
from pretrain.errors import UserError

# Keys that join the stages to each other or are checked before the first, and what gives each.
FIXED = {
    "pretrain.dataloader.train.source.root": "--images",
    "pretrain.train.output_dir": "--output",
    "detect.train.output_dir": "--output",
    "detect.train.init_checkpoint": "the pretraining",
    "detect.dataset.train_json": "--train-json",
    "detect.dataset.train_images": "--train-images",
    "detect.dataset.val_json": "--val-json",
    "detect.dataset.val_images": "--val-images",
}


def split_overrides(overrides: list[str], fixed: dict[str, str] | None = None) -> tuple[list[str], list[str]]:
    """Split overrides into those of the pretraining config and of the detection config, without their prefixes.

    Args:
        fixed: keys that a tool sets itself besides `FIXED`, and what gives each.
    """
    fixed = FIXED | (fixed or {})
    halves = {"pretrain": [], "detect": []}
    for override in overrides:
        half, _, rest = override.partition(".")
        if half not in halves or not rest:
            raise UserError(f"{override!r}: start an override with pretrain. or detect. to say which config it is for")
        refuse_fixed(override, fixed)
        halves[half].append(rest)
    return halves["pretrain"], halves["detect"]


def refuse_fixed(override: str, fixed: dict[str, str]) -> None:
    """Raise UserError for an override of a key in `fixed`, which says what gives it."""
    if (key := override.partition("=")[0]) in fixed:
        raise UserError(f"{key} is not to be given here, because {fixed[key]} says what it is; leave it out")
    if inside := next((name for name in fixed if name.startswith(f"{key}.")), None):
        raise UserError(f"{key} holds {inside}, and {fixed[inside]} says what that is; give its other keys one by one")


def check_chain(pretrain: Stage, detect: Stage, images: Path, dataset: dict[str, str | Path]) -> None:
    """Raise UserError for anything that can be known to fail before the first stage starts.

    Args:
        dataset: as in `Commands.detect`.
    """
    configs = []
    for half, stage, form in (("pretrain", pretrain, Pretraining), ("detect", detect, Detection)):
        config, *overrides = stage.command[stage.command.index("--config-file") + 1 :]
        if half == "pretrain" and "source" not in (load_config(config, []).get("dataloader") or {}).get("train", {}):
            raise UserError(f"{config} is no pretraining's config; give one, such as those in configs/pretrain")
        with naming_half(half, form):
            if half == "detect":
                detector_config(config, [])
            configs.append(load_config(config, overrides, form))
    nets = [cfg.model.backbone.get("net", cfg.model.backbone) for cfg in configs]
    for name in ("patch_size", "embed_dim", "depth", "num_heads", "in_chans"):
        mine, theirs = (net.get(name, 3) if name == "in_chans" else net[name] for net in nets)
        if mine != theirs:
            raise UserError(
                f"{name} of the backbone is {mine} in pretraining and {theirs} in the detector: make them equal"
            )
    check_pixels(*configs)
    given = configs[0].dataloader.train.source
    reading = Reading(given.get("max_pixels", MAX_PIXELS), nets[0].get("in_chans", 3), given.get("value_range"))
    source = open_source(images, **vars(reading))
    if not Path(configs[0].train.output_dir).exists():
        refuse_among(Path(configs[0].train.output_dir), source)
    reading = replace(reading, max_pixels=configs[1].get("dataset", {}).get("max_pixels", MAX_PIXELS))
    for split in ("train", "val"):
        check_coco_file(dataset[f"{split}_json"], dataset[f"{split}_images"], reading)
    check_same_categories(dataset["train_json"], dataset["val_json"])
    check_can_be_evaluated(dataset["val_json"])
    with naming_half("detect", Detection):
        try_detector(configs[-1])


def check_pixels(pretrain: DictConfig, detect: DictConfig) -> None:
    """Raise UserError unless both halves read and normalise pixels alike."""
    with naming_half("pretrain", Pretraining):
        statistics = check_statistics(pretrain)
    ranges = [pretrain.dataloader.train.source.get("value_range"), detect.get("dataset", {}).get("value_range")]
    pairs = [("dataloader.train.source.value_range", "dataset.value_range", ranges)]
    if statistics and "pixel_mean" in detect.model:
        for name, mine in zip(("mean", "std"), statistics, strict=True):
            pairs.append((f"model.image_{name}", f"model.pixel_{name}", [mine, detect.model[f"pixel_{name}"]]))
    for ours, theirs, values in pairs:
        first, second = (None if value is None else [float(number) for number in value] for value in values)
        if first != second:
            raise UserError(f"pretrain.{ours} is {first} and detect.{theirs} {second}: give the same to both halves")


@contextmanager
def naming_half(half: str, form: type) -> Iterator[None]:
    """Prefix config keys in a UserError of one half as the user writes them: `detect.train.max_iter`.

    form: the config's TypedDict, whose keys are recognised.
    """
    names, files = "|".join(form.__annotations__), "pth|json|safetensors|ya?ml|py"
    key = rf"(?<![\w./-])(?=(?:{names})\.(?!(?:{files})\b))|^(?=(?:{names})[:= ])|(?<=no key )|(?<=nothing reads )"
    try:
        yield
    except UserError as error:
        text = re.sub(key, f"{half}.", str(error))
        raise UserError(text if text != str(error) else f"{half}: {text}") from error
