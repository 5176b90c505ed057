"""From a training checkpoint to a backbone file: the teacher's trunk, under the names that timm and Detectron2 use."""

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pretrain.errors import UserError
from pretrain.files import replacing, write_torch_file
from pretrain.models.pos_embed import sample_pos_embed

# Where a detector keeps its trunk: Detectron2's simple feature pyramid calls it `net`.
DETECTOR_PREFIX = "backbone.net."
_TEACHER_PREFIX = "teacher.trunk."


def extract_trunk(checkpoint: dict) -> dict[str, Tensor]:
    """The teacher's trunk from a training checkpoint's contents, names without prefix.

    Raises:
        UserError: the checkpoint has no teacher.
    """
    model = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(model, dict):
        raise UserError('this is not a pretraining checkpoint: it has no "model"; give one that pretrain_net.py wrote')
    start = len(_TEACHER_PREFIX)
    state = {name[start:]: value for name, value in model.items() if name.startswith(_TEACHER_PREFIX)}
    if "patch_embed.proj.weight" not in state:
        raise UserError(
            f'this checkpoint has no teacher trunk (no "{_TEACHER_PREFIX}patch_embed.proj.weight"); give one that '
            "pretrain_net.py wrote"
        )
    return state


def describe_trunk(checkpoint: dict) -> dict[str, str]:
    """What a file's tensors do not say or say late, as text: method, patch and field size, width, depth, heads."""
    shape = checkpoint["trunk"]
    facts = {name: shape[name] for name in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")}
    facts |= {
        "method": checkpoint.get("method", "unknown"),
        "iteration": checkpoint.get("iteration", "unknown"),
        "field_size": "x".join(str(side) for side in shape["field_size"]),
        "layer_scale": "kept" if shape.get("layer_scale", True) else "none",
    }
    return {name: str(value) for name, value in facts.items()}


def fold_layer_scale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function without LayerScale: gamma goes into the linear layer before it, `gamma * (W x + b)`."""
    folded = {name: value for name, value in state.items() if not name.endswith(".gamma")}
    for scale, linear in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
        for name in [name for name in state if name.endswith(f".{scale}.gamma")]:
            block = name.removesuffix(f"{scale}.gamma")
            gamma = state[name]
            folded[f"{block}{linear}.weight"] = gamma[:, None] * state[f"{block}{linear}.weight"]
            folded[f"{block}{linear}.bias"] = gamma * state[f"{block}{linear}.bias"]
    return folded


def resize_field(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """The field (1, h*w, D) read at the centres of another grid's cells, bicubic -> (1, H*W, D)."""
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    return sample_pos_embed(pos_embed.unflatten(1, old), box, new).to(pos_embed.dtype)


def write_backbone(path: str | Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a backbone file; it is whole or it is not there.

    Args:
        path: `.safetensors`: bare names, with `metadata`. `.pth`: `{"model": ..., "metadata": ...}`, names with the
            prefix of a detector, as Detectron2's own `train.init_checkpoint` takes it.
        metadata: text by text, e.g. `{"method": "cropfield", "field_size": "50x50"}`.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise UserError(f"{path} ends in neither .safetensors nor .pth; choose one of them")
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if path.suffix == ".safetensors":
        with replacing(path) as draft:
            draft.write_bytes(save(state, metadata))  # save_file would make it readable for its owner alone
    else:
        prefixed = {DETECTOR_PREFIX + name: value for name, value in state.items()}
        write_torch_file(path, {"model": prefixed, "metadata": metadata})
