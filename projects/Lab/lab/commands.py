"""Shared code of the laboratory's commands: opening a backbone, writing pictures and folders."""

import argparse
import contextlib
import resource
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pretrain.data.decode import safe_formats
from pretrain.engine.devices import check_usable, default_device
from pretrain.errors import UserError, in_a_line
from pretrain.files import replacing
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import open_backbone
from pretrain.outputs import LOCK, open_output


def load_backbone(args: argparse.Namespace, drop_path_rate: float = 0.0) -> VisionTransformer:
    """The backbone selected by `add_backbone_options`, frozen, in eval mode, on its device. Raises UserError.

    Without --device `args.device` becomes the default one.
    """
    args.device = args.device or default_device()
    check_usable(args.device, "--device")
    torch.manual_seed(args.seed)  # for an untrained backbone
    backbone = open_backbone(args.weights, args.num_heads, drop_path_rate, args.untrained)
    return backbone.to(args.device)


def open_picture(path: str | Path) -> Image.Image:
    """A picture that is no photograph, labels say, read whole. Raises UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(path, formats=safe_formats())
            image.load()
            return image
    except Exception as error:  # a damaged file raises whatever its decoder stumbles on
        raise UserError(f"cannot read {path} ({in_a_line(error)}); get it again") from None


def write_picture(path: Path, pixels: np.ndarray, palette: bool = False) -> str:
    """Write uint8 RGB (H, W, 3) as PNG atomically; returns a line for the console.

    palette: reduce to 256 colours, for a third of the size.
    """
    picture = Image.fromarray(pixels)
    with replacing(path) as draft:
        if palette:
            picture.quantize(256, method=Image.Quantize.MEDIANCUT).save(draft, format="PNG", optimize=True)
        else:
            picture.save(draft, format="PNG", optimize=True)
    return f"{path}: {picture.width} x {picture.height}"


def peak_memory() -> float:
    """Peak memory of this process in GiB, of the GPU if it was used."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a draft folder beside `path` that becomes `path` if the block succeeds, and is removed if it fails.

    Raises:
        UserError: `path` exists and is not empty, cannot be written, or is in use by another process.
    """
    path = path.resolve()  # a link stays, and what it points to is replaced
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not empty; remove it to replace it, or give another --output")
    draft = open_output(path.with_name(f".{path.name}.partial"))
    try:
        for left in draft.iterdir():  # left by a killed process
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield draft
        (draft / LOCK).unlink()
        draft.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another --output") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
