"""Weights of a backbone: read them from any supported file, build or fill a backbone, write a file."""

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from pretrain.errors import UserError, printable
from pretrain.files import CHECKSUM, checksum, read_tensors, replacing, write_torch_file
from pretrain.models.pos_embed import sample_pos_embed
from pretrain.models.vit import VisionTransformer
from pretrain.models.weight_layouts import PATCH_WEIGHT, PUBLISHED_HEADS, BackboneFile, abbreviated, backbone_file

logger = logging.getLogger(__name__)

# Where a detector keeps its backbone: Detectron2's simple feature pyramid calls it `net`.
DETECTOR_PREFIX = "backbone.net."
# What files have beside the backbone, by the first part of the name; ViTDet's has no class token and no last norm.
_EXPECTED_LEFTOVERS = "cls_token mask_token masked_embed norm head head_dist fc_norm pre_logits pooler".split()


@dataclass
class LoadReport:
    """Result of loading weights; `str()` is the line for the log."""

    path: str
    matched: int = 0  # tensors of the backbone that the file filled
    parameters: int = 0  # numbers in them
    resized: list[str] = field(default_factory=list)  # "pos_embed resized from 50x50 to 16x16"
    converted: list[str] = field(default_factory=list)  # what was done about LayerScale, tokens, their positions
    left_over: list[str] = field(default_factory=list)  # in the file, unused
    missing: list[str] = field(default_factory=list)  # in the backbone, unfilled; only after a partial load

    def __str__(self) -> str:
        total = self.matched + len(self.missing)
        whole = f"all {total} tensors" if not self.missing else f"{self.matched} of {total} tensors"
        parts = [f"{self.path}: {whole} of the backbone matched ({self.parameters / 1e6:.1f} M parameters)"]
        if self.missing:
            parts.append(f"left at their initial values: {abbreviated(self.missing)}")
        parts += [f"{change} (bicubic)" for change in self.resized] + self.converted
        groups = list(dict.fromkeys(name.partition(".")[0] for name in self.left_over))
        expected = [name for name in groups if name in _EXPECTED_LEFTOVERS or name.startswith("decoder_")]
        other = [name for name in self.left_over if name.partition(".")[0] not in expected]
        if expected:
            parts.append(f"unused, as expected: {', '.join(expected)}")
        if other:
            parts.append(f"unused: {abbreviated(other)}")
        return "; ".join(parts)


def read_backbone(path: str | Path) -> BackboneFile:
    """The backbone in an export, a training state (the teacher's) or a file as others publish it.

    Raises:
        UserError: the file cannot be read (see `read_tensors`), holds no ViT or another kind than the plain one, or has
            numbers that are not finite.
    """
    return backbone_file(path, *read_tensors(path))


def build_backbone(file: BackboneFile, num_heads: int | None = None, drop_path_rate: float = 0.0) -> VisionTransformer:
    """A backbone of the shape of the one in `file`, with initial values, frozen and in eval mode; on the CPU.

    Args:
        num_heads: for files that do not record them; None takes those of published ViTs of that width.

    Raises:
        UserError: the number of heads is neither recorded, nor given, nor known by the width.
    """
    shape, class_token = architecture(file.state), "cls_token" in file.state
    num_heads = file.num_heads or num_heads or PUBLISHED_HEADS.get(shape["width"])
    if num_heads is None:
        raise UserError(
            f"{file.path} does not record its number of heads, and no published ViT is {shape['width']} channels wide; "
            "give it (--num-heads, num_heads)"
        )
    if num_heads < 1 or shape["width"] % num_heads:
        raise UserError(
            f"{num_heads} heads cannot share {shape['width']} channels, of {file.path}; give another number"
        )
    backbone = VisionTransformer(
        patch_size=file.state[PATCH_WEIGHT].shape[-1],
        embed_dim=shape["width"],
        depth=shape["depth"],
        num_heads=num_heads,
        mlp_ratio=shape["MLP width"] / shape["width"],
        field_size=file.field_size or 14,
        drop_path_rate=drop_path_rate,
        in_chans=file.state[PATCH_WEIGHT].shape[1],
        class_token=class_token,
        field_init="normal" if class_token else "sincos",  # as I-JEPA's begin, and stay
        layer_scale=1.0 if any(name.endswith(".gamma") for name in file.state) else None,
        final_norm="norm.weight" in file.state,
    )
    return backbone.requires_grad_(False).eval()


def open_backbone(
    path: str | Path, num_heads: int | None = None, drop_path_rate: float = 0.0, untrained: bool = False
) -> VisionTransformer:
    """Read, build and fill a backbone in one call: frozen, in eval mode, on the CPU.

    For arguments and errors see `read_backbone` and `build_backbone`.

    Args:
        untrained: keep the initial values, as a baseline with the same architecture.
    """
    file = read_backbone(path)
    backbone = build_backbone(file, num_heads, drop_path_rate)
    if not untrained:
        fill_backbone(backbone, file)
    return backbone


def load_backbone(backbone: nn.Module, path: str | Path, partial: bool = False) -> LoadReport:
    """Fill a backbone (ours, or Detectron2's `ViT`) from a file as it is published, or change nothing and raise.

    What `read_backbone` undoes is exact; so is LayerScale: a file with it fits a backbone without (gamma is folded),
    and the reverse (gamma is one). Two things are interpolated and not exact: a field of another size, as at inference,
    and patches of another size (App. D goes from 14 to 16 pixels, and does not say how): `resample_patch_embed` of
    timm, with which a patch that was enlarged by bicubic interpolation has the embedding that it had before. Weights of
    RGB fit a backbone of any number of bands: see `adapt_bands`.

    Args:
        partial: take what fits and leave the rest at its initial values; else the backbone must match whole.

    Raises:
        UserError: the file cannot be read or is no plain ViT (see `read_backbone`), the backbone would not match whole,
            or, with `partial`, nothing matches.
    """
    return fill_backbone(backbone, read_backbone(path), partial)


def fill_backbone(backbone: nn.Module, file: BackboneFile, partial: bool = False) -> LoadReport:
    """`load_backbone` of a file that was read already; the log says what matched."""
    wanted = backbone.state_dict()
    report = LoadReport(file.path, converted=list(file.notes))
    if not partial:
        _check_architecture(file, backbone)
    state = _match_layer_scale(file.state, wanted, report)
    _match_bands(file, state, wanted, report)
    _match_patches(state, wanted, report)
    _match_field(state, file.field_size, backbone, report)
    _note_heads(file, backbone, report)
    absent = sorted(wanted.keys() - state.keys())
    wrong = sorted(n for n in wanted.keys() & state.keys() if wanted[n].shape != state[n].shape)
    fitting = [name for name in wanted if name not in absent and name not in wrong]
    if not fitting or (not partial and len(fitting) < len(wanted)):
        raise UserError(_misfit(file.path, absent, wrong, partial))
    backbone.load_state_dict({name: state[name] for name in fitting}, strict=False)
    report.matched = len(fitting)
    report.parameters = sum(wanted[name].numel() for name in fitting)
    report.missing = sorted(absent + wrong)
    report.left_over = sorted(state.keys() - wanted.keys())
    (logger.warning if report.missing else logger.info)(str(report))
    return report


def architecture(state: dict[str, Tensor]) -> dict[str, int]:
    """Architecture that a backbone's tensors show: width, depth and MLP width."""
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    mlp = state.get("blocks.0.mlp.fc1.weight")
    return {
        "width": state[PATCH_WEIGHT].shape[0],
        "depth": len(blocks),
        "MLP width": 0 if mlp is None else mlp.shape[0],
    }


def _check_architecture(file: BackboneFile, backbone: nn.Module) -> None:
    """One sentence instead of a list of a hundred tensors."""
    theirs, ours = architecture(file.state), architecture(backbone.state_dict())
    if file.num_heads is not None:
        theirs["heads"], ours["heads"] = file.num_heads, backbone.blocks[0].attn.num_heads
    different = [f"{name} {theirs[name]} and not {ours[name]}" for name in ours if theirs[name] != ours[name]]
    if different:
        raise UserError(f"{file.path} is of another architecture than the backbone: {', '.join(different)}")


def _match_layer_scale(state, wanted, report: LoadReport) -> dict[str, Tensor]:
    theirs = any(name.endswith(".gamma") for name in state)
    gammas = [name for name in wanted if name.endswith(".gamma")]
    if theirs and not gammas:
        report.converted.append("LayerScale folded into attn.proj and mlp.fc2")
        return fold_layer_scale(state)
    if gammas and not theirs:
        report.converted.append("LayerScale set to one: the file has it folded, or never had it")
        depth = architecture(state)["depth"]
        ones = {name: torch.ones_like(wanted[name]) for name in gammas if int(name.split(".")[1]) < depth}
        return state | ones
    return dict(state)


def adapt_bands(weight: Tensor, channels: int) -> Tensor:
    """A patch embedding of RGB (D, 3, p, p) for images of other bands -> (D, channels, p, p).

    Each band gets the mean of the three kernels, times 3 / channels: an image whose bands are equal has exactly the
    embedding that grey has in RGB. timm repeats R, G, B, R, ... instead, which keeps it for multiples of three only.
    """
    return weight.mean(1, keepdim=True).repeat(1, channels, 1, 1) * (3 / channels)


def _match_bands(file: BackboneFile, state, wanted, report: LoadReport) -> None:
    """Adapt the patch embedding in place where the backbone takes other bands. Raises UserError."""
    theirs, ours = state[PATCH_WEIGHT].shape[1], wanted[PATCH_WEIGHT].shape[1]
    if theirs == ours:
        return
    if theirs != 3:
        raise UserError(
            f"{file.path} is for images of {theirs} bands, and the backbone takes {ours}: set in_chans={theirs} and "
            "give such images, or take weights of RGB, which are adapted to any number"
        )
    state[PATCH_WEIGHT] = adapt_bands(state[PATCH_WEIGHT], ours)
    report.converted.append(f"patch embedding adapted from 3 to {ours} channels")


def _match_patches(state, wanted, report: LoadReport) -> None:
    """Resample the patch embedding in place where the backbone's patches have another size."""
    old, new = state[PATCH_WEIGHT].shape[2:], wanted[PATCH_WEIGHT].shape[2:]
    if old != new and len(old) == 2:
        state[PATCH_WEIGHT] = resample_patch_embed(state[PATCH_WEIGHT], list(new))
        report.resized.append(f"patch_embed resized from {old[0]}x{old[1]} to {new[0]}x{new[1]} pixels")


def _match_field(state, old: tuple[int, int] | None, backbone: nn.Module, report: LoadReport) -> None:
    """Interpolate `pos_embed` in place where the backbone's field has another size."""
    wanted = backbone.state_dict().get("pos_embed")
    if old is None or wanted is None:
        return  # the caller names what is missing or misshapen
    new = tuple(getattr(backbone, "field_size", None) or _square(wanted.shape[1]))
    if old != new:
        state["pos_embed"] = resize_field(state["pos_embed"], old, new)
        report.resized.append(f"pos_embed resized from {old[0]}x{old[1]} to {new[0]}x{new[1]}")


def _square(cells: int) -> tuple[int, int]:
    """Sides of the positions of Detectron2's `ViT`, which are square and may begin with a class token's."""
    side = math.isqrt(cells)
    if side * side != cells:
        raise UserError(f"the backbone has {cells} positions, one for a class token; set pretrain_use_cls_token=False")
    return side, side


def _note_heads(file: BackboneFile, backbone: nn.Module, report: LoadReport) -> None:
    """Note an assumed number of heads: a wrong one fits every tensor and computes nonsense."""
    heads, width = backbone.blocks[0].attn.num_heads, backbone.state_dict()[PATCH_WEIGHT].shape[0]
    published = PUBLISHED_HEADS.get(width)
    if file.num_heads is None and heads != published:
        usual = f", where published ViTs of {width} channels have {published}" if published else ""
        report.converted.append(
            f"the file does not record its number of heads: {heads} of {width // heads} channels assumed{usual}"
        )


def _misfit(path, absent: list[str], wrong: list[str], partial: bool) -> str:
    if partial:
        return f"{path}: nothing in it fits the backbone, in name and shape; choose the config it fits"
    faults = [f"lacks {abbreviated(absent)}"] if absent else []
    faults += [f"has other shapes for {abbreviated(wrong)}"] if wrong else []
    return f"{path} does not fill the backbone: it {' and '.join(faults)}; choose the config it fits"


def fold_layer_scale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function without LayerScale: gamma goes into the linear layer before it, `gamma * (W x + b)`."""
    folded = {name: value for name, value in state.items() if not name.endswith(".gamma")}
    for scale, linear in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
        for name in [name for name in state if name.endswith(f".{scale}.gamma")]:
            layer, gamma = name.removesuffix(f"{scale}.gamma") + linear, state[name]
            for part, factor in ((f"{layer}.weight", gamma[:, None]), (f"{layer}.bias", gamma)):
                if part in state:
                    folded[part] = factor * state[part]
    return folded


def resize_field(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """The field (1, h*w, D) read at the centres of another grid's cells, bicubic -> (1, H*W, D)."""
    return sample_pos_embed(pos_embed.unflatten(1, old), None, new).to(pos_embed.dtype)


def check_ending(path: Path) -> Path:
    """`path`, if `write_backbone` writes such files. Raises UserError."""
    if path.suffix not in (".safetensors", ".pth"):
        raise UserError(f"{path} ends in neither .safetensors nor .pth; choose one of them")
    return path


def encodable(text: str) -> str:
    r"""`text` itself, or, with bytes of a name that is not UTF-8, which nothing could read, with these as \xff."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return printable(text)


def write_backbone(path: str | Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a backbone file; it is whole or it is not there.

    Args:
        path: `.safetensors`: bare names, with `metadata`. `.pth`: `{"model": ..., "metadata": ...}`, names with the
            prefix of a detector, as Detectron2's own `train.init_checkpoint` takes it.
        metadata: text by text, e.g. `{"method": "cropfield", "field_size": "50x50"}`.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    path = check_ending(Path(path))
    metadata = {name: encodable(text) if isinstance(text, str) else text for name, text in metadata.items()}
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if path.suffix == ".safetensors":
        with replacing(path) as draft:
            metadata = metadata | {"format": "pt"}  # transformers and accelerate read no file without
            metadata |= {CHECKSUM: checksum(state, metadata)}
            draft.write_bytes(save(state, metadata))  # save_file would make it readable for its owner alone
    else:
        prefixed = {DETECTOR_PREFIX + name: value for name, value in state.items()}
        write_torch_file(path, {"model": prefixed, "metadata": metadata})


def fingerprint(backbone: VisionTransformer) -> str:
    """Hash of the weights and of what tensors do not show: heads. Alike for every file of the same backbone."""
    content = hashlib.sha256(json.dumps(backbone.metadata, sort_keys=True).encode())
    for name, value in sorted(backbone.state_dict().items()):
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()
