"""Console commands of the installed package: the scripts of tools/, with configs by name.

    cropfield-train --config-file COCO/mask_rcnn_cropfield_vits_12ep.py train.init_checkpoint=backbone.safetensors

Not part of `cropfield`, whose import takes seconds: a tool answers --help at once, and sets up threads before it
imports torch.
"""

import os
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

CONFIGS = ("--config-file", "--pretrain-config")


def root() -> Path:
    """The folder that contains configs/ and tools/: see `cropfield.model_zoo.ROOT`."""
    package = Path(find_spec("cropfield").origin).resolve().parent
    return package if (package / "configs").is_dir() else package.parents[2]


def run_tool(name: str) -> None:
    """Run tools/NAME.py with this process's arguments."""
    command = [sys.executable, str(root() / "tools" / f"{name}.py"), *with_files(sys.argv[1:])]
    os.execv(sys.executable, command)


def with_files(arguments: list[str]) -> list[str]:
    """Replace config names in the arguments by their files; unknown names stay, for the tool to report."""
    found = list(arguments)
    for place, word in enumerate(arguments):
        option, equals, name = word.partition("=") if word.partition("=")[0] in CONFIGS else ("", "", word)
        if (equals or place and arguments[place - 1] in CONFIGS) and not os.path.exists(name):
            files = [folder / name for folder in (root() / "configs", root()) if (folder / name).is_file()]
            found[place] = f"{option}{equals}{files[0] if files else name}"
    return found


pretrain = partial(run_tool, "pretrain_net")
export = partial(run_tool, "export_backbone")
train = partial(run_tool, "lazyconfig_train_net")
detect = partial(run_tool, "pretrain_then_detect")
predict = partial(run_tool, "predict")
