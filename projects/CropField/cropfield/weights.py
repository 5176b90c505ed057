"""Loading backbone files, with a report of what matched and an error when the trunk did not."""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.files import read_torch_file
from pretrain.models.export import DETECTOR_PREFIX, fold_layer_scale, resize_field

logger = logging.getLogger(__name__)

# What pretraining has and ViTDet's trunk has not.
_EXPECTED_LEFTOVERS = ("cls_token", "mask_token", "norm.weight", "norm.bias")
_PREFIXES = ("", DETECTOR_PREFIX, "backbone.", "net.")
# A file with any of these is a whole detector.
_DETECTOR_PARTS = ("proposal_generator.", "roi_heads.", "backbone.simfp_")
_PATCH_WEIGHT = "patch_embed.proj.weight"


@dataclass
class LoadReport:
    """What a load did. `str()` is the sentence for the log."""

    path: str
    matched: int = 0  # tensors of the trunk that the file filled
    parameters: int = 0  # numbers in them
    resized: list[str] = field(default_factory=list)  # "pos_embed from 50x50 to 16x16"
    converted: list[str] = field(default_factory=list)  # what was done about LayerScale
    left_over: list[str] = field(default_factory=list)  # in the file, unused
    missing: list[str] = field(default_factory=list)  # in the trunk, unfilled; never after a successful load

    def __str__(self) -> str:
        parts = [
            f"{self.path}: all {self.matched} tensors of the trunk matched ({self.parameters / 1e6:.1f} M parameters)"
        ]
        parts += [f"{change} (bicubic)" for change in self.resized] + self.converted
        expected = [name for name in self.left_over if name in _EXPECTED_LEFTOVERS]
        other = [name for name in self.left_over if name not in _EXPECTED_LEFTOVERS]
        if expected:
            parts.append(f"unused, as expected: {', '.join(expected)}")
        if other:
            parts.append(f"unused: {_some(other)}")
        return "; ".join(parts)


def load_weights(model: nn.Module, path: str | Path) -> LoadReport | None:
    """Fill a detector from a file: a backbone file goes to its trunk, a whole detector's checkpoint to all of it.

    Returns:
        the trunk's report; None after a whole detector was loaded.

    Raises:
        UserError: as `load_backbone`, or a detector's checkpoint that does not fit this detector.
    """
    state, _ = read_tensors(path)
    if not any(name.startswith(_DETECTOR_PARTS) for name in state):
        return load_backbone(find_trunk(model), path)
    wanted = model.state_dict()
    wrong = [name for name in wanted if name not in state or wanted[name].shape != state[name].shape]
    wrong = [name for name in wrong if not name.startswith("pixel_")]
    if wrong:
        raise UserError(
            f"{path} is another detector's checkpoint: {_some(wrong)} do not fit; choose the config it fits"
        )
    model.load_state_dict({name: state.get(name, value) for name, value in wanted.items()})
    logger.info("%s: all %d tensors of the detector loaded", path, len(wanted))
    return None


def find_trunk(model: nn.Module) -> nn.Module:
    """The ViT inside a detector: Detectron2's `backbone.net`, or `backbone` itself."""
    backbone = getattr(model, "backbone", model)
    trunk = getattr(backbone, "net", backbone)
    if not hasattr(trunk, "patch_embed"):
        raise UserError(
            f"the detector's backbone is a {type(trunk).__name__} and no ViT: a backbone file cannot fill it"
        )
    return trunk


def load_backbone(trunk: nn.Module, path: str | Path) -> LoadReport:
    """Fill a trunk (`CropFieldViT`, or Detectron2's `ViT`) from a backbone file, or change nothing and raise.

    A file with LayerScale fits a trunk without (gamma is folded), and the reverse (gamma is one); both are exact. A
    field of another size is interpolated.

    Raises:
        UserError: the file cannot be read or refused (see `read_backbone`), or the trunk would not match whole.
    """
    state, metadata = read_backbone(path)
    wanted = trunk.state_dict()
    report = LoadReport(str(path))
    _check_architecture(path, state, metadata, trunk)
    state = _match_layer_scale(state, wanted, report)
    _match_field(path, state, metadata, trunk, report)
    report.missing = sorted(wanted.keys() - state.keys())
    report.left_over = sorted(state.keys() - wanted.keys())
    wrong = sorted(n for n in wanted.keys() & state.keys() if wanted[n].shape != state[n].shape)
    if report.missing or wrong:
        faults = [f"lacks {_some(report.missing)}"] * bool(report.missing)
        faults += [f"has other shapes for {_some(wrong)}"] * bool(wrong)
        raise UserError(
            f"{path} does not fill the detector's trunk: it {' and '.join(faults)}; choose the config it fits"
        )
    trunk.load_state_dict({name: state[name] for name in wanted})
    report.matched = len(wanted)
    report.parameters = sum(tensor.numel() for tensor in wanted.values())
    logger.info(str(report))
    return report


def read_backbone(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A backbone file's tensors under bare names, and its metadata (empty if it has none).

    Raises:
        UserError: the file is absent, truncated, no checkpoint, would run code on loading, holds no ViT trunk, or has
            numbers that are not finite.
    """
    state, metadata = read_tensors(path)
    if any(name.startswith(("teacher.", "student.")) for name in state):
        raise UserError(f"{path} is a whole pretraining checkpoint; take its trunk out with tools/export_backbone.py")
    prefix = next((p for p in _PREFIXES if p + _PATCH_WEIGHT in state), None)
    if prefix is None:
        raise UserError(f"{path} holds no ViT trunk (no {_PATCH_WEIGHT}); give a file of tools/export_backbone.py")
    state = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: numbers that are not finite in {_some(broken)}; its training had diverged")
    return state, metadata


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a `.safetensors` or torch file as they are named in it, and its metadata. Never runs code.

    Raises:
        UserError: the file is absent, truncated, no checkpoint, or would run code on loading.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        return _read_safetensors(path)
    content = read_torch_file(path)
    metadata = content.get("metadata", {}) if isinstance(content, dict) else {}
    state = content.get("model", content) if isinstance(content, dict) else {}
    state = {n: v for n, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not state:
        raise UserError(f"{path} holds no tensors by name: it is no checkpoint of a model")
    return state, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or no safetensors file ({_first_line(error)}); copy it again") from None


def describe(state: dict[str, Tensor]) -> dict[str, int]:
    """Architecture that a trunk's tensors show: patch size, width, depth and MLP width."""
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    mlp = state.get("blocks.0.mlp.fc1.weight")
    return {
        "patch size": state[_PATCH_WEIGHT].shape[-1],
        "width": state[_PATCH_WEIGHT].shape[0],
        "depth": len(blocks),
        "MLP width": 0 if mlp is None else mlp.shape[0],
    }


def _check_architecture(path, state: dict[str, Tensor], metadata: dict[str, str], trunk: nn.Module) -> None:
    """One sentence instead of a list of a hundred tensors. The number of heads shows in no tensor, only in metadata."""
    theirs, ours = describe(state), describe(trunk.state_dict())
    if "num_heads" in metadata:
        theirs["heads"] = int(metadata["num_heads"])
        ours["heads"] = trunk.blocks[0].attn.num_heads
    different = [f"{name} {theirs[name]} and not {ours[name]}" for name in ours if theirs[name] != ours[name]]
    if different:
        raise UserError(f"{path} is of another architecture than the detector's trunk: {', '.join(different)}")


def _match_layer_scale(state, wanted, report: LoadReport) -> dict[str, Tensor]:
    theirs = any(name.endswith(".gamma") for name in state)
    gammas = [name for name in wanted if name.endswith(".gamma")]
    if theirs and not gammas:
        report.converted.append("LayerScale folded into attn.proj and mlp.fc2")
        return fold_layer_scale(state)
    if gammas and not theirs:
        report.converted.append("LayerScale set to one: the file has it folded, or never had it")
        return state | {name: torch.ones_like(wanted[name]) for name in gammas}
    return state


def _match_field(path, state, metadata, trunk: nn.Module, report: LoadReport) -> None:
    """Interpolate `pos_embed` in place where the trunk's field has another size."""
    positions, wanted = state.get("pos_embed"), trunk.state_dict().get("pos_embed")
    if positions is None or wanted is None or positions.dim() != 3:
        return  # the caller names what is missing or misshapen
    old = _sides(path, positions.shape[1], metadata.get("field_size"))
    new = getattr(trunk, "field_size", None) or _sides("the detector's trunk", wanted.shape[1], None)
    if old != tuple(new):
        state["pos_embed"] = resize_field(positions, old, tuple(new))
        report.resized.append(f"pos_embed resized from {old[0]}x{old[1]} to {new[0]}x{new[1]}")


def _sides(where, cells: int, recorded: str | None) -> tuple[int, int]:
    """Height and width of a field from its record "50x50", or from its square number of cells."""
    if recorded:
        height, width = (int(side) for side in recorded.split("x"))
        return height, width
    side = math.isqrt(cells)
    if side * side != cells:
        raise UserError(
            f"{where} has {cells} positions, which is no square: a class token's position among them? Only files of "
            "tools/export_backbone.py record other shapes"
        )
    return side, side


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:80]


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
