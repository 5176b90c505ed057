"""What the laboratory's commands share: options, how a backbone is opened, how pictures and folders are written."""

import argparse
import contextlib
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lab.backbones import build_backbone, open_backbone
from pretrain.engine.devices import default_device
from pretrain.errors import UserError
from pretrain.files import replacing
from pretrain.models.vit import VisionTransformer
from pretrain.outputs import LOCK, open_output


def new_parser(description: str) -> argparse.ArgumentParser:
    """A tool's docstring is its help, as it stands."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def positive(text: str) -> int:
    """For `type=` of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def add_backbone_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--weights, --num-heads, --untrained, --seed and --device, for `load_backbone`."""
    add, weights = parser.add_argument, "a backbone file, a training state or public ViT weights"
    add("--weights", type=Path, required=required, metavar="FILE", help=weights)
    add(
        "--num-heads",
        type=positive,
        metavar="N",
        help="where --weights does not record them (default: as published ViTs of that width)",
    )
    add("--untrained", action="store_true", help="the file's shape with initial values, to compare with")
    add("--seed", type=int, default=0, help="of initial values and of what is drawn (default 0)")
    add("--device", default=default_device(), help="default: cuda where there is one")


def load_backbone(args: argparse.Namespace, drop_path_rate: float = 0.0) -> VisionTransformer:
    """The backbone that `add_backbone_options` asks for, frozen, in eval mode, on its device. Raises UserError."""
    torch.manual_seed(args.seed)  # of the untrained one's values
    make = build_backbone if args.untrained else open_backbone
    return make(args.weights, args.num_heads, drop_path_rate).to(args.device)


def write_picture(path: Path, pixels: np.ndarray, palette: bool = False) -> str:
    """Write uint8 RGB (H, W, 3) as PNG, whole or not at all -> a line that says so.

    palette: in 256 colours of its own, a third of the bytes.
    """
    picture = Image.fromarray(pixels)
    with replacing(path) as draft:
        if palette:
            picture.quantize(256, method=Image.Quantize.MEDIANCUT).save(draft, format="PNG", optimize=True)
        else:
            picture.save(draft, format="PNG", optimize=True)
    return f"{path}: {picture.width} x {picture.height}"


def peak_memory() -> float:
    """GiB that this process took at most, on the GPU where it ran there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a draft folder beside `path`, which becomes `path` when the block ends well and is removed when it fails.

    Raises:
        UserError: `path` is there already and not empty, cannot be written, or another process is at it.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already and not empty; remove it to make it anew, or give another --output")
    draft = open_output(path.with_name(f".{path.name}.partial"))
    try:
        for left in draft.iterdir():  # by a process that was killed
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield draft
        (draft / LOCK).unlink()
        draft.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another --output") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
