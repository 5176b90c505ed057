"""On-disk cache of features: one pass over the images, then any number of classifiers.

One .npy file for each backbone and list of images. Its name is a hash of everything that the features depend on: the
backbone's weights and shape, each image's path, size and date, and the preprocessing. So a file is never stale; if
anything changes, a new one is made, and you may delete the old one. Files are written batch by batch and memory-mapped
when read.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lab.probes.features import framed_batches, pooled_layers
from lab.probes.framing import FramedImages
from lab.probes.labelled import LabelledImages
from pretrain.data.index import files_digest
from pretrain.errors import UserError
from pretrain.files import replacing
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import fingerprint
from pretrain.progress import progress

VERSION = 2  # of the features' definition and file format; a change invalidates all files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """How images become features.

    image_size: side in pixels, a multiple of the patch size. framing, views: see `framing.view`. seed: of the views.
    layers: number of last layers. pools: see `pooled_layers`. amp: run the backbone under bfloat16 autocast.
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
    """`values` (views, images, pools, layers, D) float16, memory-mapped; `rows` (n,) of the readable images."""

    values: Tensor
    pools: tuple[str, ...]
    rows: Tensor
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, pool: str, layers: int, which: Tensor | slice = slice(None), view: int = 0) -> Tensor:
        """Concatenated features of the last `layers` layers, for some readable images -> (b, layers * D) float32."""
        chosen = self.values[view % len(self.values), self.rows[which], self.pools.index(pool), -layers:]
        return chosen.flatten(1).float()


def cached_features(
    backbone: VisionTransformer,
    images: LabelledImages,
    extraction: Extraction,
    folder: str | Path,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Features:
    """Read features from `folder`, or compute them with `backbone` on its device and save them there.

    Raises:
        UserError: the image size is not a multiple of the patch size, the backbone has fewer layers, the file cannot be
            written, or no image can be read.
    """
    if extraction.image_size % backbone.patch_size:
        raise UserError(
            f"an image of {extraction.image_size} pixels does not divide into patches of {backbone.patch_size}"
        )
    if extraction.layers > len(backbone.blocks):
        raise UserError(
            f"the backbone has {len(backbone.blocks)} layers, not {extraction.layers}; ask for fewer (--layers)"
        )
    path = Path(folder) / f"{cache_key(backbone, images, extraction)}.npy"
    shape = (extraction.views, len(images), len(extraction.pools), extraction.layers, backbone.embed_dim)
    found = read_features(path, shape)
    if found is not None:
        logger.info(f"features of {len(images):,} images found in {path}")
    else:
        started = time.perf_counter()
        framed = FramedImages(
            images, range(len(images)), extraction.image_size, extraction.framing, extraction.views, extraction.seed
        )
        batches = framed_batches(framed, backbone.pos_embed.device, batch_size, num_workers)
        write_features(path, shape, _pooled(backbone, extraction, batches, len(framed)))
        logger.info(f"{len(framed):,} views in {time.perf_counter() - started:.1f} s; features kept in {path}")
        found = read_features(path, shape)
    values, readable = found
    if not readable.any():
        raise UserError(f"{images.source.root}: none of its {len(images):,} images can be read; copy them again")
    rows = readable.nonzero()[:, 0]
    return Features(values, extraction.pools, rows, images.labels[rows])


def write_features(path: Path, shape: tuple[int, ...], batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    """Write the file atomically; UserError if it cannot be written.

    It contains two arrays in sequence: values (views, images, pools, layers, D) float16, and readable (images,) bool.
    An image is readable if all its views could be read.

    Args:
        shape: of the values.
        batches: values (b, pools, layers, D) and readable (b,) bool, ordered by view, then image.
    """
    readable = []
    with replacing(path) as draft, open(draft, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for values, whole in batches:
            file.write(values.half().cpu().numpy().tobytes())
            readable.append(whole)
        np.save(file, torch.cat(readable).view(shape[:2]).all(0).numpy())


def read_features(path: Path, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """Memory-mapped values, and readable. None: the file is missing, damaged, or has another content."""
    if not path.exists():
        return None
    try:
        values = np.load(path, mmap_mode="c")
        if (values.shape, values.dtype) == (shape, np.float16):
            with open(path, "rb") as file:
                file.seek(values.offset + values.nbytes)
                return torch.from_numpy(values), torch.from_numpy(np.load(file))
        reason = "other content"
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).partition("\n")[0]
    logger.warning(f"{path} cannot be used ({reason}): its features are computed again")
    return None


def cache_key(backbone: VisionTransformer, images: LabelledImages, extraction: Extraction) -> str:
    """Hash of everything that the features depend on."""
    listed = files_digest((images.name(index), images.path(index)) for index in range(len(images)))
    facts = {"version": VERSION, "weights": fingerprint(backbone), "images": listed, **asdict(extraction)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _pooled(
    backbone: VisionTransformer, extraction: Extraction, batches: Iterator[tuple[Tensor, Tensor]], total: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features (b, pools, layers, D) and readable (b,) bool of every batch; logs progress."""
    device = backbone.pos_embed.device.type
    for pixels, indices in progress(batches, "views", total, lambda batch: len(batch[1]), logger.info):
        with torch.autocast(device, torch.bfloat16, extraction.amp):
            yield pooled_layers(backbone, pixels, extraction.layers, extraction.pools), indices >= 0
