"""Features kept on disk: one pass over the images, then any number of classifiers.

One .safetensors file for a trunk and a listing of images. Its name is a hash of all that its numbers depend on, which
it also holds: the trunk's weights and shape, each image's path, size and date, and how they are read. So a file is
never stale; what no longer fits is made anew under another name, and the old file is yours to delete.
"""

import hashlib
import json
import logging
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretrain.data.index import stamp
from pretrain.errors import UserError
from pretrain.evaluation.features import pooled_layers, square_batches
from pretrain.evaluation.framing import Squares
from pretrain.evaluation.labelled import LabelledImages
from pretrain.files import replacing
from pretrain.models.vit import VisionTransformer

VERSION = 1  # of the features' definition; another one makes all files anew

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How images become features.

    image_size: pixels a side, a multiple of the patch.  framing, views: see `framing.view`.  seed: of the views.
    layers: how many of the last.  pools: see `pooled_layers`.  amp: whether the trunk runs under bfloat16 autocast.
    """

    image_size: int = 224
    framing: str = "centre"
    views: int = 1
    seed: int = 0
    layers: int = 4
    pools: tuple[str, ...] = ("patch",)
    amp: bool = False


@dataclass(frozen=True)
class Features:
    """`values` (views, images, pools, layers, D) float16, mapped from a file; `rows` (n,) of the readable images."""

    values: Tensor
    pools: tuple[str, ...]
    rows: Tensor
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, pool: str, layers: int, which: Tensor | slice = slice(None), view: int = 0) -> Tensor:
        """Of some readable images, the last `layers` layers end to end -> (b, layers * D) float32."""
        chosen = self.values[view % len(self.values), self.rows[which], self.pools.index(pool), -layers:]
        return chosen.flatten(1).float()


def cached_features(
    trunk: VisionTransformer,
    images: LabelledImages,
    reading: Reading,
    folder: str | Path,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Features:
    """Read from `folder` what was computed before, or compute it with `trunk`, where it is, and keep it there.

    Raises:
        UserError: the image size does not divide into patches, the trunk has fewer layers, the file cannot be written,
            or no image can be read.
    """
    if reading.image_size % trunk.patch_size:
        raise UserError(f"an image of {reading.image_size} pixels does not divide into patches of {trunk.patch_size}")
    if reading.layers > len(trunk.blocks):
        raise UserError(f"the trunk has {len(trunk.blocks)} layers, not {reading.layers}; ask for fewer")
    made_from = describe(trunk, images, reading)
    path = Path(folder) / f"{hashlib.sha256(made_from.encode()).hexdigest()[:24]}.safetensors"
    found = _read(path, made_from)
    if found is None:
        started = time.perf_counter()
        squares = Squares(images, range(len(images)), reading.image_size, reading.framing, reading.views, reading.seed)
        batches = square_batches(squares, trunk.patch_embed.proj.weight.device, batch_size, num_workers)
        _write(path, made_from, trunk, reading, len(images), batches)
        seconds = time.perf_counter() - started
        logger.info(f"features of {len(squares):,} squares in {seconds:.1f} s, kept in {path}")
        found = _read(path, made_from)
    else:
        logger.info(f"features of {len(images):,} images found in {path}")
    values, readable = found
    if not readable.any():
        raise UserError(f"{images.source.root}: none of its {len(images):,} images can be read; copy them again")
    rows = readable.nonzero()[:, 0]
    return Features(values, reading.pools, rows, images.labels[rows])


def describe(trunk: VisionTransformer, images: LabelledImages, reading: Reading) -> str:
    """All that features depend on, as one line of JSON."""
    listing = hashlib.sha256()
    for index in range(len(images)):
        listing.update(f"{images.name(index)}\0{_stamp(images.path(index))}\n".encode())
    facts = {"version": VERSION, "weights": fingerprint(trunk), "images": listing.hexdigest(), **asdict(reading)}
    return json.dumps(facts, sort_keys=True)


def fingerprint(trunk: VisionTransformer) -> str:
    """Hash of the weights and of the shape that tensors do not show: heads. Alike for every file of the same trunk."""
    content = hashlib.sha256(json.dumps(trunk.shape, sort_keys=True).encode())
    for name, value in sorted(trunk.state_dict().items()):
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        return stamp(path)
    except (OSError, ValueError):  # it will be a broken image
        return None


def _read(path: Path, made_from: str) -> tuple[Tensor, Tensor] | None:
    """Values and readable (n,) bool, mapped, not copied. None: absent, damaged, or of something else."""
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


def _write(
    path: Path,
    made_from: str,
    trunk: VisionTransformer,
    reading: Reading,
    count: int,
    batches: Iterator[tuple[Tensor, Tensor]],
) -> None:
    """Batch after batch to the end of the file: in memory the features of ImageNet would take gigabytes.

    The layout is safetensors': the header's length in eight bytes, the header as JSON, the tensors end to end.
    """
    shape = (reading.views, count, len(reading.pools), reading.layers, trunk.embed_dim)
    size = 2 * torch.Size(shape).numel()
    header = {
        "__metadata__": {"made_from": made_from},
        "values": {"dtype": "F16", "shape": shape, "data_offsets": (0, size)},
        "readable": {"dtype": "BOOL", "shape": (count,), "data_offsets": (size, size + count)},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    device = trunk.patch_embed.proj.weight.device.type
    readable = torch.ones(reading.views, count, dtype=torch.bool).flatten()
    with replacing(path) as draft, open(draft, "wb") as file, torch.autocast(device, torch.bfloat16, reading.amp):
        file.write(struct.pack("<Q", len(text)) + text)
        done = 0
        for pixels, places in batches:
            pooled = pooled_layers(trunk, pixels, reading.layers, reading.pools)
            file.write(pooled.half().cpu().numpy().tobytes())
            readable[done : done + len(places)] = places >= 0
            done += len(places)
        file.write(readable.view(reading.views, count).all(0).numpy().tobytes())
