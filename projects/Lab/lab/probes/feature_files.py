"""Files of features: written from the first batch to the last without being held in memory, and mapped when read.

They are .safetensors files of two tensors: `values` (views, images, pools, layers, D) float16, and `readable` (images,)
bool. The metadata's `made_from` says what they are.
"""

import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretrain.files import replacing

logger = logging.getLogger(__name__)


def write_features(
    path: Path, made_from: str, shape: tuple[int, int, int, int, int], batches: Iterator[tuple[Tensor, Tensor]]
) -> None:
    """Write the file whole or not at all. An image that cannot be read in one view counts as not readable.

    The library only writes tensors that are in memory; those of ImageNet would take gigabytes. The layout is simple:
    the header's length in eight bytes, the header as JSON, the tensors end to end.

    Args:
        shape: of `values`.
        batches: `values` (b, pools, layers, D) and which are readable (b,) bool, view by view and image by image.

    Raises:
        UserError: the file cannot be written.
    """
    size, count = 2 * torch.Size(shape).numel(), shape[1]
    header = {
        "__metadata__": {"made_from": made_from},
        "values": {"dtype": "F16", "shape": shape, "data_offsets": (0, size)},
        "readable": {"dtype": "BOOL", "shape": (count,), "data_offsets": (size, size + count)},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    readable = []
    with replacing(path) as draft, open(draft, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values, whole in batches:
            file.write(values.half().cpu().numpy().tobytes())
            readable.append(whole)
        file.write(torch.cat(readable).view(shape[0], count).all(0).numpy().tobytes())


def read_features(path: Path, made_from: str) -> tuple[Tensor, Tensor] | None:
    """`values` and `readable`, mapped, not copied. None: the file is absent, damaged, or of something else."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("made_from") == made_from:
                return file.get_tensor("values"), file.get_tensor("readable")
        reason = "of something else"
    except (SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
    logger.warning(f"{path} is not what it should be ({reason}): its features are computed again")
    return None
