"""For tools that cannot be changed, such as Detectron2's own `tools/train_net.py`.

    DETECTRON2_ENV_MODULE=cropfield.environment python .../tools/train_net.py --config-file faster_rcnn.yaml

Detectron2 imports the module that this variable names when it is imported itself, and calls `setup_environment`. A
module of your own, which also registers your datasets, can call this one.
"""

from detectron2.config.defaults import _C

from cropfield.config import add_cropfield_config


def setup_environment() -> None:
    """Add MODEL.CROPFIELD to the defaults from which every `get_cfg()` starts; the builders register on import."""
    if "CROPFIELD" not in _C.MODEL:
        add_cropfield_config(_C)
