"""Backbones in the formats of timm, transformers and Detectron2, with the code that loads them there.

Folding LayerScale and a class token's position of zero change no feature. At other sizes than the field's, timm
resamples positions with antialiasing, so features differ slightly; transformers and Detectron2 interpolate as we do.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pretrain.errors import UserError
from pretrain.files import replacing, write_json
from pretrain.models.weight_layouts import PATCH_WEIGHT, BackboneFile, recorded_numbers
from pretrain.models.weights import architecture, fold_layer_scale, write_backbone

# Ours -> the names that transformers publishes, of DINOv2 and of I-JEPA, as (part of a name, what replaces it).
_TRANSFORMERS = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("pos_embed", "embeddings.position_embeddings"),
    ("cls_token", "embeddings.cls_token"),
    ("blocks.", "encoder.layer."),
    (".attn.proj.", ".attention.output.dense."),
)
_DINOV2 = ((".ls1.gamma", ".layer_scale1.lambda1"), (".ls2.gamma", ".layer_scale2.lambda1"))
_IJEPA = (
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a backbone: patch and image in pixels, `mlp` and `width` in channels."""

    patch: int
    width: int
    depth: int
    heads: int
    mlp: int
    image_height: int
    image_width: int
    bands: int

    @property
    def mlp_ratio(self) -> float:
        """A number r for which int(width * r), as others compute it, is the MLP's width."""
        ratio = self.mlp / self.width
        return ratio if int(self.width * ratio) == self.mlp else (self.mlp + 0.5) / self.width

    @property
    def in_chans(self) -> str:
        """The argument of timm and Detectron2 for other images than RGB, or ""."""
        return "" if self.bands == 3 else f", in_chans={self.bands}"

    @classmethod
    def of(cls, file: BackboneFile) -> "Shape":
        found, patch = architecture(file.state), file.state[PATCH_WEIGHT].shape[-1]
        rows, columns = file.field_size
        size = (rows * patch, columns * patch)
        return cls(
            patch,
            found["width"],
            found["depth"],
            file.num_heads,
            found["MLP width"],
            *size,
            file.state[PATCH_WEIGHT].shape[1],
        )

    def side(self, where: str) -> int:
        """Of a square field. Raises UserError."""
        if self.image_height != self.image_width:
            raise UserError(
                f"{where} knows square images only, and the field is for "
                f"{self.image_height} x {self.image_width} pixels; give --image-size of a square"
            )
        return self.image_height


def write_timm(path: Path, file: BackboneFile) -> str:
    """PATH.safetensors for `timm.create_model`; returns the lines that load it."""
    if "cls_token" not in file.state or "norm.weight" not in file.state:
        raise UserError(f"{file.path} has no class token, and timm's plain ViTs have one; take another --format")
    shape, state = Shape.of(file), fold_layer_scale(file.state)
    positions = state["pos_embed"]
    state["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    write_backbone(check_name(path, "timm"), state, file.metadata | {"layer_scale": "folded"})
    return (
        "import timm\n"
        f"model = timm.create_model(\n    'vit_base_patch16_224', patch_size={shape.patch}, embed_dim={shape.width}, "
        f"depth={shape.depth}, num_heads={shape.heads},\n    mlp_ratio={shape.mlp_ratio:.17g}, "
        f"img_size=({shape.image_height}, {shape.image_width}), num_classes=0, pretrained=True{shape.in_chans},\n"
        f"    pretrained_cfg_overlay=dict(file={str(path)!r}{_timm_statistics(file) if shape.bands == 3 else ''}),\n"
        ")  # features_only=True gives maps of its blocks"
    )


def _timm_statistics(file: BackboneFile) -> str:
    """Mean and deviation of pixels from 0 to 1: the recorded ones, else ImageNet's."""
    recorded = [recorded_numbers(file.metadata, name) for name in ("image_mean", "image_std")]
    if None in recorded:
        return ", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)"
    mean, std = (tuple(round(value / 255, 6) for value in values) for values in recorded)
    return f", mean={mean}, std={std}"


def write_transformers(folder: Path, file: BackboneFile) -> str:
    """FOLDER/model.safetensors and config.json for `from_pretrained`: a DINOv2, without class token an I-JEPA."""
    if "norm.weight" not in file.state:
        raise UserError(f"{file.path} has no last norm, and transformers' models have one; take --format detectron2")
    check_name(folder, "hf")
    kind = "Dinov2" if "cls_token" in file.state else "IJepa"
    state, config = (_dinov2 if kind == "Dinov2" else _ijepa)(file, Shape.of(file))
    with replacing(folder / "model.safetensors") as draft:
        draft.write_bytes(save(state, {"format": "pt"}))
    write_json(folder / "config.json", config)
    return f"from transformers import {kind}Model\nmodel = {kind}Model.from_pretrained({str(folder)!r})"


def _dinov2(file: BackboneFile, shape: Shape) -> tuple[dict[str, Tensor], dict]:
    state = dict(file.state)
    for block in range(shape.depth):
        for scale in ("ls1", "ls2"):
            state.setdefault(f"blocks.{block}.{scale}.gamma", torch.ones(shape.width))
    positions = state["pos_embed"]
    state["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    state["embeddings.mask_token"] = torch.zeros(1, shape.width)
    ratio = shape.mlp_ratio
    extra = {"mlp_ratio": int(ratio) if ratio.is_integer() else ratio, "layerscale_value": 1.0}
    return _renamed(state, _DINOV2), _config("dinov2", "Dinov2Model", shape) | extra


def _ijepa(file: BackboneFile, shape: Shape) -> tuple[dict[str, Tensor], dict]:
    config = _config("ijepa", "IJepaModel", shape) | {"intermediate_size": shape.mlp, "pooler_output_size": shape.width}
    return _renamed(fold_layer_scale(file.state), _IJEPA), config


def _config(kind: str, architecture: str, shape: Shape) -> dict:
    return {
        "model_type": kind,
        "architectures": [architecture],
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "image_size": shape.side("transformers"),
        "patch_size": shape.patch,
        "num_channels": shape.bands,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }


def _renamed(state: dict[str, Tensor], names: tuple) -> dict[str, Tensor]:
    """Under transformers' names, with a layer each for queries, keys and values."""
    renamed = {}
    for name, value in state.items():
        name = f"layer{name}" if name.startswith("norm.") else name
        for ours, theirs in (*_TRANSFORMERS, *names):
            name = name.replace(ours, theirs)
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = third.contiguous()
        else:
            renamed[name] = value.contiguous()
    return renamed


def write_detectron2(path: Path, file: BackboneFile) -> str:
    """PATH.pth for Detectron2's own `ViT` below a simple feature pyramid; returns the lines that build it."""
    shape = Shape.of(file)
    side = shape.side("Detectron2's ViT")
    write_backbone(check_name(path, "detectron2"), fold_layer_scale(file.state), file.metadata)
    return (
        "from detectron2.config import LazyCall as L\nfrom detectron2.modeling import ViT\n"
        f"model.backbone.net = L(ViT)(\n    img_size={side}, patch_size={shape.patch}, embed_dim={shape.width}, "
        f"depth={shape.depth}, num_heads={shape.heads},\n    mlp_ratio={shape.mlp_ratio:.17g}, "
        f"pretrain_img_size={side}, pretrain_use_cls_token=False, use_rel_pos=False,\n"
        f"    window_size=0, out_feature='last_feat'{shape.in_chans},\n)\ntrain.init_checkpoint = {str(path)!r}"
    )


def check_name(path: Path, kind: str) -> Path:
    """`path`, if it has the ending of that format. Raises UserError."""
    if kind == "hf" and path.suffix:
        raise UserError(f"{path}: transformers wants a folder; give -o a name without ending")
    if path.suffix != ENDINGS[kind]:
        raise UserError(f"{path}: --format {kind} writes a {ENDINGS[kind]}; give -o a name with that ending")
    return path


ENDINGS = {"timm": ".safetensors", "hf": "", "detectron2": ".pth"}
FORMATS = {"timm": write_timm, "hf": write_transformers, "detectron2": write_detectron2}
