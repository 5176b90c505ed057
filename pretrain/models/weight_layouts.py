"""ViT weights as they are published, under this project's names: ours, timm's, DINO's, iBOT's, DINOv2's, MAE's, DeiT's,
and those of Hugging Face's transformers, MMPretrain and torchvision.

They are all the same plain pre-norm ViT and differ in five things, which this file undoes: where a checkpoint keeps the
backbone, names of blocks and LayerScale, one layer for queries, keys and values or three, a position for the class
token, and tokens that our backbone has not. They use exact GELU, LayerNorm with eps 1e-6 (transformers' own 1e-12 gives
the same to four digits) and, except some of timm's and transformers' own, images normalised as `pretrain.data` does.
What computes something else (CLIP's second norm, relative or rotary positions, SwiGLU, norms of q and k) is refused.
"""

import contextlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pretrain.errors import UserError

PATCH_WEIGHT = "patch_embed.proj.weight"

# Heads of the plain ViTs that are published, by width: no tensor shows them. Up to ViT-L a head has 64 channels; ViT-H
# (1280), ViT-g (1408) and their kin have 16 heads, so 80 and 88.
PUBLISHED_HEADS = {
    192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 896: 14, 1024: 16,
    1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16,
}  # fmt: skip

# Where a file has a student and its moving average, the average is meant. Words of a name.
_AVERAGES = {"teacher", "target", "momentum", "ema"}


@dataclass(frozen=True)
class FileLayout:
    """How files of one origin call the parts of a plain ViT.

    Args:
        patch: the patch embedding's weight, by which the origin is known.
        renamed: patterns and what replaces them, in this order.
        refused: why none of its weights can be taken.
    """

    patch: str
    renamed: tuple[tuple[str, str], ...] = ()
    refused: str = ""


_ROTARY = (
    "it has rotary positions, as DINOv3 does: attention turns queries and keys by their places, which this backbone "
    "does not compute; take DINOv2 or another ViT with learned positions"
)
LAYOUTS = {
    "the original releases and timm": FileLayout(PATCH_WEIGHT),
    "transformers": FileLayout(  # ViTModel, Dinov2Model, ViTMAEModel, IJepaModel, DeiTModel
        "embeddings.patch_embeddings.projection.weight",
        (
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.distillation_token$", "dist_token"),
            (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
            (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.", r".attn.\1."),
            (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
            (r"\.mlp\.weights_in\.", ".mlp.w12."),
            (r"\.mlp\.weights_out\.", ".mlp.w3."),
            (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
            (r"^layernorm\.", "norm."),
        ),
    ),
    "transformers' DINOv3": FileLayout("embeddings.patch_embeddings.weight", refused=_ROTARY),
    "MMPretrain": FileLayout(
        "patch_embed.projection.weight",
        (
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^pre_norm\.", "norm_pre."),
            (r"^(?:ln|norm)1\.", "norm."),
            (r"^layers\.(\d+)\.", r"blocks.\1."),
            (r"\.ln([12])\.", r".norm\1."),
            (r"\.attn\.gamma1\.weight$", ".ls1.gamma"),
            (r"\.ffn\.gamma2\.weight$", ".ls2.gamma"),
            (r"\.attn\.attn\.in_proj_", ".attn.qkv."),  # MMSegmentation
            (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
            (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
            (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
        ),
    ),
    "torchvision": FileLayout(
        "conv_proj.weight",
        (
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^class_token$", "cls_token"),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.ln\.", "norm."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
            (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
        ),
    ),
}
_THREE = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
_RENAMED = (
    (r"_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.", ""),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # FSDP chunks of DINOv2's training; the inner number counts all blocks
    (r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),  # DeiT III
)
# Everything that a plain block has; one more tensor, and it computes something else.
_BLOCK = re.compile(r"blocks\.\d+\.((norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)|ls[12]\.gamma)")
_LINEAR = re.compile(r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight")
_QKV = re.compile(r"blocks\.\d+\.attn\.qkv\.weight")
_OTHER_EMBEDDINGS = ("norm_pre.", "patch_embed.", "rope", "rel_pos")
_EXTRA_TOKENS = {"register_tokens": "register", "reg_token": "register", "dist_token": "distillation"}


@dataclass
class BackboneFile:
    """A plain ViT's tensors under our names: `pos_embed` is a field (1, h*w, D), the class token has no position."""

    path: str
    state: dict[str, Tensor]
    field_size: tuple[int, int] | None  # None: the file has no absolute positions of shape (1, N, D)
    num_heads: int | None  # None: not recorded; no tensor shows it
    notes: list[str]  # what was changed on the way
    metadata: dict[str, str]  # what the file says of itself


def backbone_file(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> BackboneFile:
    """A ViT's tensors, in whichever layout, under our names.

    Args:
        path: what errors call them.
        metadata: as `read_tensors` gives it; its `field_size` and `num_heads` are heeded.

    Raises:
        UserError: there is no ViT among them or another kind than the plain one, or a number is not finite.
    """
    notes: list[str] = []
    state = _join_projections(_rename(*_backbone_of(path, tensors, notes)))
    _check_tensors(path, state)
    _check_plain(path, state)
    refuse_not_finite(path, state)
    _check_metadata(path, metadata)
    field_size = _split_positions(path, state, metadata.get("field_size"), notes)
    num_heads = int(metadata["num_heads"]) if "num_heads" in metadata else None
    if num_heads and state[PATCH_WEIGHT].shape[0] % num_heads:
        raise UserError(f"{path} records {num_heads} heads, which do not divide its width; export it again")
    return BackboneFile(str(path), state, field_size, num_heads, notes, dict(metadata))


def refuse_not_finite(path, state: dict[str, Tensor]) -> None:
    """Raise UserError if a weight is inf or nan."""
    if broken := [name for name, value in state.items() if not torch.isfinite(value).all()]:
        raise UserError(
            f"{path}: numbers that are not finite in {abbreviated(broken)}; its training had diverged, so take weights "
            "from before"
        )


def _check_metadata(path, metadata: dict[str, str]) -> None:
    for name, form, example in (
        ("num_heads", r"[1-9]\d{0,3}", "6"),
        ("field_size", r"[1-9]\d{0,3}x[1-9]\d{0,3}", "50x50"),
    ):
        if name in metadata and not re.fullmatch(form, str(metadata[name]), re.ASCII):
            raise UserError(
                f"{path} records {name} as {str(metadata[name])[:40]!r}, which is not valid (an example is {example}); "
                "export it again with tools/export_backbone.py"
            )


def recorded_numbers(metadata: dict[str, str], name: str) -> list[float] | None:
    """Numbers that a file of ours records, such as "51,102,127.5"; None where there are none, or in another form."""
    with contextlib.suppress(KeyError, AttributeError, ValueError):
        return [float(value) for value in metadata[name].split(",")]


def abbreviated(names: list[str], most: int = 3) -> str:
    """The first names of a list that may be long."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _backbone_of(path, tensors: dict[str, Tensor], notes: list[str]) -> tuple[dict[str, Tensor], str]:
    """The tensors below the prefix where the backbone lies: "", "model.", "teacher.backbone." ...; which of LAYOUTS."""
    found = {
        name.removesuffix(layout.patch): origin
        for origin, layout in LAYOUTS.items()
        for name in tensors
        if f".{name}".endswith(f".{layout.patch}")
    }
    if not found:
        raise UserError(
            f"{path} holds no ViT backbone (no {PATCH_WEIGHT}); give a ViT of tools/export_backbone.py, or one as "
            "DINO, DINOv2, MAE, timm, transformers, MMPretrain or torchvision write it"
        )
    prefix = min(found, key=lambda p: (_AVERAGES.isdisjoint(re.split(r"[._]", p.lower())), len(p)))
    if refused := LAYOUTS[found[prefix]].refused:
        raise UserError(f"{path} cannot be taken: {refused}")
    others = [other for other in found if other != prefix]
    if others:
        notes.append(f"taken from {prefix or 'the top level'}* and not from {abbreviated(others)}*")
    if LAYOUTS[found[prefix]].renamed:
        notes.append(f"names of {found[prefix]}")
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}, found[prefix]


def _join_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values in one layer; one without bias gets a bias of zero. Both are exact."""
    for query, *others in _THREE:
        for name in [name for name in state if f".attn.{query}." in name]:
            parts = [name, *(name.replace(f".attn.{query}.", f".attn.{other}.") for other in others)]
            shapes = {state[part].shape if part in state else None for part in parts}
            if len(shapes) == 1 and state[name].dim():
                state[name.replace(f".attn.{query}.", ".attn.qkv.")] = torch.cat([state.pop(part) for part in parts])
    weights = [name for name in state if _QKV.fullmatch(name) and state[name].dim()]
    biases = {name.replace("weight", "bias"): state[name].new_zeros(len(state[name])) for name in weights}
    return state if biases.keys() & state.keys() else state | biases


def _rename(state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in (_RENAMED[0], *LAYOUTS[origin].renamed, *_RENAMED[1:]):
            name = re.sub(pattern, replacement, name)
        renamed[name] = value.float() if value.is_floating_point() else value
    return renamed


def _check_plain(path, state: dict[str, Tensor]) -> None:
    if any(".mlp.w12." in name or ".mlp.w3." in name for name in state) or _is_gated(state):
        raise UserError(
            f"{path} has SwiGLU blocks, as DINOv2's ViT-g, and this backbone has plain MLPs; take its ViT-S, B or L"
        )
    tokens = ("register_tokens", "reg_token", "storage_tokens")
    if any(name.startswith("rope") for name in state) or ("pos_embed" not in state and any(n in state for n in tokens)):
        raise UserError(f"{path} cannot be taken: {_ROTARY}")
    other = [name for name in state if name.startswith("blocks.") and not _BLOCK.fullmatch(name)]
    other += [n for n in state if n.startswith(_OTHER_EMBEDDINGS) and not n.startswith("patch_embed.proj.")]
    if other:
        raise UserError(
            f"{path} is not a plain ViT: it also has {abbreviated(other)}, and without them it would compute "
            "something else"
        )


def _check_tensors(path, state: dict[str, Tensor]) -> None:
    """Those that a backbone takes are of floating point (8 bits mean nothing without their scales), and not empty."""
    for name, value in state.items():
        if not name.startswith(("blocks.", "patch_embed.", "pos_embed", "cls_token", "norm.")):
            continue
        dims = 4 if name == PATCH_WEIGHT else 2 if _LINEAR.fullmatch(name) else value.dim()
        if not value.is_floating_point() or not value.numel() or value.dim() != dims:
            kind = f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
            raise UserError(f"{path}: {name} is {kind}, which is not a weight of a ViT; take the original release")
    width = len(state[PATCH_WEIGHT])
    if not any(name.startswith("blocks.") for name in state):
        raise UserError(f"{path} has no transformer blocks; take the original release")
    for name, value in state.items():
        if (name in ("pos_embed", "cls_token") or name.endswith(".gamma")) and value.shape[-1:] != (width,):
            raise UserError(f"{path}: {name} is of shape {tuple(value.shape)}, and the backbone has {width} channels")


def _is_gated(state: dict[str, Tensor]) -> bool:
    """timm packs both halves of a SwiGLU in fc1: it is twice as wide as what fc2 takes."""
    up, down = state.get("blocks.0.mlp.fc1.weight"), state.get("blocks.0.mlp.fc2.weight")
    return up is not None and down is not None and up.shape[0] == 2 * down.shape[1]


def _split_positions(path, state: dict[str, Tensor], recorded: str | None, notes: list[str]) -> tuple[int, int] | None:
    """Take extra tokens and their positions out of `state`; the class token's position goes into it. In place.

    The blocks see class token and position only as their sum, so adding them beforehand changes no feature.
    """
    num_extra = 0
    for name in [name for name in _EXTRA_TOKENS if name in state]:
        count = state.pop(name).numel() // state[PATCH_WEIGHT].shape[0]
        num_extra += count
        kind = _EXTRA_TOKENS[name] + " token" + "s" * (count > 1)
        notes.append(f"{count} {kind} dropped, so features differ from the source model's")
    positions = state.get("pos_embed")
    if positions is None or positions.dim() != 3:
        return None
    size, num_slots = _field_and_slots(path, positions.shape[1], recorded, num_extra)
    if num_slots:
        slots, state["pos_embed"] = positions.split([num_slots, positions.shape[1] - num_slots], dim=1)
        if "cls_token" in state:
            state["cls_token"] = state["cls_token"] + slots[:, :1]
            notes.append("the class token's position added to cls_token (exact)")
    return size


def _field_and_slots(path, count: int, recorded: str | None, num_extra: int) -> tuple[tuple[int, int], int]:
    """Sides of the field, and how many of `count` positions in front of it belong to other tokens.

    Either none of them has a position (timm's `no_embed_class`), or the class token, or it and all extra tokens.
    """
    for num_slots in (0, 1, 1 + num_extra):
        side = math.isqrt(max(0, count - num_slots))
        height, width = (int(side) for side in recorded.split("x")) if recorded else (side, side)
        if height * width == count - num_slots:
            return (height, width), num_slots
    raise UserError(
        f"{path} has {count} positions, which is not {recorded or 'square'}, with or without a class token's: only "
        "files of tools/export_backbone.py record other shapes than squares; take weights of square images"
    )
