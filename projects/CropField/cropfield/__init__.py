"""CropField for Detectron2: the pretrained ViT as a backbone, for LazyConfig files and yaml.

Importing the package registers the builders for yaml configs. All other names are imported on first use, so the import
costs no more than Detectron2's own.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cropfield.config import add_cropfield_config, build_cropfield_vit_backbone, build_cropfield_vit_fpn_backbone

if TYPE_CHECKING:
    from cropfield.backbone import CropFieldFeaturePyramid, CropFieldViT, PlainBackbone
    from cropfield.model_zoo import get_config, get_config_file, load_pretrained
    from cropfield.weights import load_weights
    from pretrain.models.weights import LoadReport, load_backbone

__version__ = "0.1.0"

_MODULES = {
    "CropFieldFeaturePyramid": "cropfield.backbone",
    "CropFieldViT": "cropfield.backbone",
    "LoadReport": "pretrain.models.weights",
    "PlainBackbone": "cropfield.backbone",
    "get_config": "cropfield.model_zoo",
    "get_config_file": "cropfield.model_zoo",
    "load_backbone": "pretrain.models.weights",
    "load_pretrained": "cropfield.model_zoo",
    "load_weights": "cropfield.weights",
}

__all__ = [
    "CropFieldFeaturePyramid",
    "CropFieldViT",
    "LoadReport",
    "PlainBackbone",
    "add_cropfield_config",
    "build_cropfield_vit_backbone",
    "build_cropfield_vit_fpn_backbone",
    "get_config",
    "get_config_file",
    "load_backbone",
    "load_pretrained",
    "load_weights",
]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
