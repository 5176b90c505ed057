"""Features kept on disk: one pass over the images, then any number of classifiers.

One .safetensors file for a trunk and a listing of images. Its name is a hash of all that its numbers depend on, which
it also holds: the trunk's weights and shape, each image's path, size and date, and how they are read. So a file is
never stale; what no longer fits is made anew under another name, and the old file is yours to delete.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lab.probes.feature_files import read_features, write_features
from lab.probes.features import pooled_layers, square_batches
from lab.probes.framing import FramedImages
from lab.probes.labelled import LabelledImages
from pretrain.data.index import stamp
from pretrain.errors import UserError
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
    found = read_features(path, made_from)
    if found is not None:
        logger.info(f"features of {len(images):,} images found in {path}")
    else:
        started = time.perf_counter()
        squares = FramedImages(
            images, range(len(images)), reading.image_size, reading.framing, reading.views, reading.seed
        )
        batches = square_batches(squares, trunk.patch_embed.proj.weight.device, batch_size, num_workers)
        shape = (reading.views, len(images), len(reading.pools), reading.layers, trunk.embed_dim)
        write_features(path, made_from, shape, _pooled(trunk, reading, batches, len(squares)))
        logger.info(f"{len(squares):,} squares in {time.perf_counter() - started:.1f} s; features kept in {path}")
        found = read_features(path, made_from)
    values, readable = found
    if not readable.any():
        raise UserError(f"{images.source.root}: none of its {len(images):,} images can be read; copy them again")
    rows = readable.nonzero()[:, 0]
    return Features(values, reading.pools, rows, images.labels[rows])


def describe(trunk: VisionTransformer, images: LabelledImages, reading: Reading) -> str:
    """All that features depend on, as one line of JSON."""
    listing = hashlib.sha256()
    for index in range(len(images)):
        listing.update(f"{images.name(index)}\0{_stamp(images.path(index))}\n".encode(errors="surrogateescape"))
    facts = {"version": VERSION, "weights": fingerprint(trunk), "images": listing.hexdigest(), **asdict(reading)}
    return json.dumps(facts, sort_keys=True)


def fingerprint(trunk: VisionTransformer) -> str:
    """Hash of the weights and of the shape that tensors do not show: heads. Alike for every file of the same trunk."""
    content = hashlib.sha256(json.dumps(trunk.facts, sort_keys=True).encode())
    for name, value in sorted(trunk.state_dict().items()):
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        return stamp(path)
    except (OSError, ValueError):  # it will be a broken image
        return None


def _pooled(
    trunk: VisionTransformer, reading: Reading, batches: Iterator[tuple[Tensor, Tensor]], total: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features (b, pools, layers, D) and which images could be read (b,) of every batch; says every minute how far."""
    device, done, said = trunk.patch_embed.proj.weight.device.type, 0, time.monotonic()
    for pixels, places in batches:
        with torch.autocast(device, torch.bfloat16, reading.amp):
            yield pooled_layers(trunk, pixels, reading.layers, reading.pools), places >= 0
        done += len(places)
        if time.monotonic() - said > 60:
            logger.info(f"features of {done:,} of {total:,} squares")
            said = time.monotonic()
