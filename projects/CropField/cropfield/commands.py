"""The project's commands as stages of a chain: pretrain, export, detect, probe. Each can also be run by hand."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cropfield.stages import Stage
from pretrain.engine.checkpoint import LAST

RESERVED = ("null", "true", "false", "nan", "inf")  # not read as text by hydra


@dataclass(frozen=True)
class Commands:
    """Makes stages from the tools and configs of `repository`. A stage is named after its output folder."""

    repository: Path

    def pretrain(self, config: str | Path, images: Path, output: Path, *overrides: str) -> Stage:
        """Pretrain on a folder of images; `config` is relative to configs/pretrain, or an absolute path."""
        data = override("dataloader.train.source.root", images)
        command = self._with_config("pretrain_net.py", Path("pretrain", config), output, data, *overrides)
        inputs = (self.repository / "configs" / "pretrain" / config,)
        return Stage(output.name, command, show=r"pretrain\.|detection probe|^error", inputs=inputs)

    def export(self, pretrained: Path, backbone: Path) -> Stage:
        """Export the backbone from a pretraining's output folder, also as .pth for Detectron2's own tools."""
        outputs = ("--overwrite", "-o", str(backbone.with_suffix(".pth")), str(backbone))
        return Stage("export", (self._tool("export_backbone.py"), str(pretrained / LAST), *outputs))

    def detect(
        self, config: str, dataset: dict[str, Path], output: Path, *overrides: str, threads: int | None = None
    ) -> Stage:
        """Fine-tune and evaluate with a config of configs/COCO.

        Args:
            dataset: train_json, train_images, val_json, val_images.
            threads: CPU threads of the process; None: the default number.
        """
        data = (override(f"dataset.{name}", path) for name, path in dataset.items())
        command = self._with_config("lazyconfig_train_net.py", Path("COCO", config), output, *data, *overrides)
        environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        inputs = (self.repository / "configs" / "COCO" / config, *annotations_of(dataset))
        return Stage(output.name, command, r"iter: |Inference done|\bbox AP|matched|^error", environment, inputs)

    def probe(self, backbones: Iterable[Path], dataset: dict[str, Path], output: Path, image_size: int) -> Stage:
        """Measure the detection probe of `backbones` on images of `image_size` pixels; results go to a .json file."""
        tool = self.repository / "projects" / "CropField" / "tools" / "probe_detection.py"
        data = (word for name, path in dataset.items() for word in (f"--{name.replace('_', '-')}", str(path)))
        size = ("--image-size", str(image_size))
        command = (str(tool), *map(str, backbones), *data, *size, "--overwrite", "--output", str(output))
        return Stage(output.stem, command, inputs=annotations_of(dataset))

    def _with_config(self, tool: str, config: Path, output: Path, *overrides: str) -> tuple[str, ...]:
        config = str(self.repository / "configs" / config)
        folder = override("train.output_dir", output)
        return (self._tool(tool), "--resume", "--config-file", config, folder, *overrides)

    def _tool(self, name: str) -> str:
        return str(self.repository / "tools" / name)


def annotations_of(dataset: dict[str, Path]) -> tuple[Path, ...]:
    return tuple(Path(path) for name, path in dataset.items() if name.endswith("_json"))


def override(key: str, text: str | Path) -> str:
    """`key=text`, quoted so that `load_config` and Detectron2's tools read back exactly `text`.

    Paths of plain characters stay unquoted.
    """
    text = str(text)
    if re.fullmatch(r"([A-Za-z_/]|\.\.?/)[\w./-]*", text, re.ASCII) and text.lower() not in RESERVED:
        return f"{key}={text}"
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f'{key}="{escaped}"'.replace("${", "\\${")


def in_words(ap: float | None) -> str:
    """An AP for the log; COCO's AP is undefined for a detector without any detection."""
    return "undefined (nothing was detected)" if ap is None or math.isnan(ap) else f"{ap:.2f}"
