"""The project's own commands as stages of a chain: pretrain, export, detect. Each can be typed by hand as well."""

import re
from dataclasses import dataclass
from pathlib import Path

from cropfield.stages import Stage
from pretrain.engine.checkpoint import LAST
from pretrain.errors import UserError

RESERVED = ("null", "true", "false", "nan", "inf")  # no text to hydra


@dataclass(frozen=True)
class Commands:
    """Makes stages out of the tools and configs of `repository`; a stage is called as its output folder."""

    repository: Path

    def pretrain(self, config: str | Path, images: Path, output: Path, *overrides: str) -> Stage:
        """Pretrain with a config of configs/pretrain, or an absolute path, on a folder of images."""
        data = override("dataloader.train.source.root", images)
        command = self._with_config("pretrain_net.py", Path("pretrain", config), output, data, *overrides)
        return Stage(output.name, command, show=r"pretrain\.|^error")

    def export(self, pretrained: Path, backbone: Path) -> Stage:
        """Take the backbone out of a pretraining's output folder."""
        return Stage("export", (self._tool("export_backbone.py"), str(pretrained / LAST), "-o", str(backbone)))

    def detect(
        self, config: str, dataset: dict[str, Path], output: Path, *overrides: str, threads: int | None = None
    ) -> Stage:
        """Fine-tune and evaluate with a config of configs/COCO.

        Args:
            dataset: train_json, train_images, val_json, val_images.
            threads: of the process; None: as many as it takes.
        """
        data = (override(f"dataset.{name}", path) for name, path in dataset.items())
        command = self._with_config("lazyconfig_train_net.py", Path("COCO", config), output, *data, *overrides)
        environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        return Stage(output.name, command, r"iter: |Inference done|box AP|matched|^error", environment)

    def _with_config(self, tool: str, config: Path, output: Path, *overrides: str) -> tuple[str, ...]:
        config = str(self.repository / "configs" / config)
        folder = override("train.output_dir", output)
        return (self._tool(tool), "--resume", "--config-file", config, folder, *overrides)

    def _tool(self, name: str) -> str:
        return str(self.repository / "tools" / name)


def override(key: str, text: str | Path) -> str:
    """`key=text` as `load_config` and Detectron2's own tools read it back, whatever characters `text` has.

    Paths of plain characters stay as they are; others are quoted, and so is what would be read as something else.
    """
    text = str(text)
    if re.fullmatch(r"([A-Za-z_/]|\.\.?/)[\w./-]*", text, re.ASCII) and text.lower() not in RESERVED:
        return f"{key}={text}"
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f'{key}="{escaped}"'.replace("${", "\\${")


def in_words(ap: float | None) -> str:
    """An AP for a reader; COCO's measure is undefined for a detector that found nothing at all."""
    return "undefined (nothing was detected)" if ap is None else f"{ap:.2f}"


def split_overrides(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Overrides of the pretraining config and of the detector's, without their prefixes."""
    halves = {"pretrain": [], "detect": []}
    for override in overrides:
        half, _, rest = override.partition(".")
        if half not in halves or not rest:
            raise UserError(f"{override!r}: begin an override with pretrain. or detect., to say which half it is for")
        halves[half].append(rest)
    return halves["pretrain"], halves["detect"]


def check_chain(pretrain: Stage, detect: Stage, images: Path, dataset: dict[str, str | Path]) -> None:
    """Raise UserError on everything that can be known to fail, before the first stage.

    Args:
        dataset: as of `Commands.detect`.
    """
    from cropfield.datasets import check_can_be_evaluated, check_coco_file, check_same_categories
    from cropfield.forms import Detection
    from cropfield.trial import try_detector
    from pretrain.data.images import open_source
    from pretrain.engine.forms import Pretraining
    from pretrain.engine.lazy_config import load_config

    configs = []
    for stage, form in ((pretrain, Pretraining), (detect, Detection)):
        config, *overrides = stage.command[stage.command.index("--config-file") + 1 :]
        configs.append(load_config(config, overrides, form))
    nets = [cfg.model.backbone.get("net", cfg.model.backbone) for cfg in configs]
    for name in ("patch_size", "embed_dim", "depth", "num_heads"):
        mine, theirs = (net[name] for net in nets)
        if mine != theirs:
            raise UserError(
                f"{name} of the backbone is {mine} in pretraining and {theirs} in the detector: make them equal"
            )
    open_source(images)
    check_coco_file(dataset["train_json"], dataset["train_images"])
    check_coco_file(dataset["val_json"], dataset["val_images"])
    check_same_categories(dataset["train_json"], dataset["val_json"])
    check_can_be_evaluated(dataset["val_json"])
    try_detector(configs[-1])
