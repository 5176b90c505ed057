"""The commands of an installed package: the scripts of tools/, with configs by their names.

cropfield-train --config-file COCO/mask_rcnn_cropfield_vits_12ep.py train.init_checkpoint=backbone.safetensors
"""

import runpy
import sys
from functools import partial
from pathlib import Path

from pretrain.errors import run_main


def run_tool(name: str) -> None:
    """Run tools/NAME.py as a script, with this process's arguments."""

    def main() -> None:
        from cropfield.model_zoo import ROOT

        sys.argv[1:] = with_files(sys.argv[1:])
        runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")

    run_main(main)


def with_files(arguments: list[str]) -> list[str]:
    """The arguments, with files for configs that are called by their names.

    Raises:
        UserError: there is neither a file nor a config of that name.
    """
    from cropfield.model_zoo import get_config_file

    pairs = zip(["", *arguments], arguments, strict=False)
    options = ("--config-file", "--pretrain-config")
    return [
        str(get_config_file(word)) if before in options and not Path(word).exists() else word for before, word in pairs
    ]


pretrain = partial(run_tool, "pretrain_net")
export = partial(run_tool, "export_backbone")
train = partial(run_tool, "lazyconfig_train_net")
detect = partial(run_tool, "pretrain_then_detect")
predict = partial(run_tool, "predict")
