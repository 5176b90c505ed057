"""Reading weight files: the tensors of any checkpoint, by name, without running code from it."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretrain.errors import UserError
from pretrain.files import read_torch_file
from pretrain.models.export import describe_trunk


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a `.safetensors` or torch file, and its metadata. Never runs code.

    Dictionaries inside the file become prefixes: `{"teacher": {"norm.bias": ...}}` gives "teacher.norm.bias".

    Raises:
        UserError: the file is absent, truncated, no checkpoint, or would run code on loading.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        return _read_safetensors(path)
    # DINO, iBOT and MAE save their command line beside the weights; a Namespace is plain values by name.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = read_torch_file(path)
    state = dict(_flatten(content)) if isinstance(content, dict) else {}
    if not state:
        raise UserError(f"{path} holds no tensors by name: it is no checkpoint of a model")
    if "trunk" in content and "method" in content:  # a training state of pretrain_net.py
        return state, describe_trunk(content)
    return state, content.get("metadata", {})


def _flatten(content: dict, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict) and name != "optimizer":
            yield from _flatten(value, f"{prefix}{name}.")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:80]
        raise UserError(f"{path} is truncated or no safetensors file ({reason}); copy it again") from None
