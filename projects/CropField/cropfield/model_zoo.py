"""Configs by name, from a checkout or an installed package, and backbones from weight files."""

import difflib
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from omegaconf import DictConfig

from cropfield.backbone import CropFieldViT
from cropfield.config import add_cropfield_config
from pretrain.errors import UserError
from pretrain.models.weights import build_backbone, fill_backbone, read_backbone

PACKAGE = Path(__file__).resolve().parent
# Contains configs/, tools/ and projects/; in an installed package that is the package itself, see setup.py.
ROOT = PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parents[2]


def get_config_file(name: str) -> Path:
    """Path of a config in the checkout or the installed package.

    Args:
        name: relative to configs/ ("COCO/mask_rcnn_cropfield_vits_12ep.py") or to the repository
            ("projects/StoP/configs/stop_tiny.py").

    Raises:
        UserError: there is no such config.
    """
    for folder in (ROOT / "configs", ROOT):
        if (folder / name).is_file():
            return folder / name
    names = [path.relative_to(ROOT / "configs").as_posix() for path in ROOT.glob("configs/*/*.py")]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"see {ROOT / 'configs'}"
    raise UserError(f"there is no config {name}; {hint}")


def get_config(name: str, overrides: list[str] | None = None) -> DictConfig | CfgNode:
    """Load one of this package's configs, like `detectron2.model_zoo.get_config` for Detectron2's.

    Args:
        name: see `get_config_file`; a .yaml file returns a `CfgNode`.
        overrides: "key=value" for a LazyConfig.

    Raises:
        UserError: as `get_config_file` and `load_config`.
    """
    from pretrain.engine.lazy_config import load_config  # imported here: using only the backbone needs no engine

    path = get_config_file(name)
    if path.suffix != ".yaml":
        return load_config(path, overrides or [])
    cfg = get_cfg()
    add_cropfield_config(cfg)
    cfg.merge_from_file(str(path))
    return cfg


def load_pretrained(path: str | Path, num_heads: int | None = None, **arguments) -> CropFieldViT:
    """Build a backbone with the architecture of a weight file and load its weights, in eval mode.

    Args:
        path: an export of tools/export_backbone.py, a training state, published ViT weights, or their URL (`https://`,
            `detectron2://`, `hf://OWNER/NAME/FILE`).
        num_heads: for files that do not record it; None takes that of published ViTs of that width.
        arguments: further arguments of `CropFieldViT`; `class_token=True, final_norm=True` keep what detectors drop.

    Raises:
        UserError: as `read_backbone` and `build_backbone`.
    """
    from pretrain.engine.addresses import local_file

    file = read_backbone(local_file(path))
    with torch.device("meta"):
        shape = build_backbone(file, num_heads)
    backbone = CropFieldViT(
        patch_size=shape.patch_size,
        in_chans=shape.in_chans,
        embed_dim=shape.embed_dim,
        depth=len(shape.blocks),
        num_heads=shape.num_heads,
        mlp_ratio=shape.mlp_ratio,
        field_size=shape.field_size,
        layer_scale=1.0 if any(name.endswith(".gamma") for name in file.state) else None,
        **arguments,
    )
    fill_backbone(backbone, file)
    return backbone.eval()
