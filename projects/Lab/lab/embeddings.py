"""Features of images for other programs: safetensors shards with file names."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from lab.probes.features import framed_batches
from lab.probes.framing import FramedImages
from lab.wanted import Wanted
from pretrain.data.index import files_digest
from pretrain.errors import UserError
from pretrain.files import replacing, write_json
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import fingerprint
from pretrain.progress import progress

INDEX = "embeddings.json"


def write_embeddings(
    backbone: VisionTransformer, source, wanted: Wanted, output: Path, batch_size: int = 64, num_workers: int = 0
) -> Iterator[tuple[int, float | None]]:
    """Write the shards missing in `output`; after each, yield the number of images done, and images a second (None for
    a shard that existed).

    Shard k, `embeddings-<k>.safetensors`, contains one tensor for each kind with a row for each readable image, and
    `names` and `broken` in its metadata as JSON lists. It is written atomically, so an interrupted call can be resumed.
    `embeddings.json` records the settings.

    Raises:
        UserError: `output` contains embeddings of another backbone, other images or settings, or cannot be written.
    """
    begin(backbone, source, wanted, output)
    last = (len(source) - 1) // wanted.shard
    for number in range(last + 1):
        path = output / f"embeddings-{number:0{max(5, len(str(last)))}}.safetensors"
        indices = range(number * wanted.shard, min(len(source), (number + 1) * wanted.shard))
        started, there = time.perf_counter(), path.exists()
        if not there:
            tensors, rows = embed(backbone, source, indices, wanted, batch_size, num_workers)
            names = {"names": [source.name(indices[row]) for row in rows]}
            names["broken"] = [source.name(index) for index in sorted({*indices} - {indices[row] for row in rows})]
            metadata = {"format": "pt"} | {key: json.dumps(value) for key, value in names.items()}
            with replacing(path) as draft:
                draft.write_bytes(save(tensors, metadata))
        yield indices[-1] + 1, None if there else len(indices) / (time.perf_counter() - started)


def begin(backbone: VisionTransformer, source, wanted: Wanted, output: Path) -> None:
    """Record the settings in `output`; UserError if it belongs to other settings, or nothing can be computed."""
    if wanted.image_size % backbone.patch_size:
        raise UserError(f"--image-size {wanted.image_size} is not a multiple of the patch, {backbone.patch_size}")
    if "cls" in wanted.kinds and backbone.cls_token is None:
        raise UserError("this backbone has no class token; ask for --features mean, patches or both")
    root = Path(getattr(source, "root", ""))  # images in shards are no files of their own
    images = files_digest((name, root / name) for name in map(source.name, range(len(source))))
    facts = {"backbone": fingerprint(backbone), "images": images, **asdict(wanted), "kinds": list(wanted.kinds)}
    try:
        before = json.loads((output / INDEX).read_text())
    except FileNotFoundError:
        write_json(output / INDEX, facts)
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{output / INDEX} cannot be read ({error}); choose another --output") from None
    if before != facts:
        other = sorted(key for key in facts if not isinstance(before, dict) or before.get(key) != facts[key])
        raise UserError(f"{output} holds embeddings with other {', '.join(other)}; choose another --output")


def embed(
    backbone: VisionTransformer, source, indices: range, wanted: Wanted, batch_size: int, num_workers: int
) -> tuple[dict[str, Tensor], list[int]]:
    """One tensor for each kind, on the CPU, with a row for each readable image; and the positions of these in
    `indices`.
    """
    framed = FramedImages(source, indices, wanted.image_size, wanted.framing)
    parts, rows = {kind: [] for kind in wanted.kinds}, []
    batches = framed_batches(framed, backbone.pos_embed.device, batch_size, num_workers)
    for pixels, places in progress(batches, "images", len(indices), lambda batch: len(batch[1])):
        readable = places >= 0
        rows += places[readable].tolist()
        for kind, values in features(backbone, pixels[readable.to(pixels.device)], wanted.kinds).items():
            parts[kind].append(values.to("cpu", getattr(torch, wanted.dtype)))
    return {kind: torch.cat(values) for kind, values in parts.items()}, rows


@torch.no_grad()
def features(backbone: VisionTransformer, images: Tensor, kinds: tuple[str, ...]) -> dict[str, Tensor]:
    """Normalised images (B, 3, H*p, W*p) -> "cls" (B, D), "mean" (B, D), "patches" (B, H, W, D), those of `kinds`."""
    cls, patches = backbone(images)
    found = {"cls": cls, "mean": patches.mean(1), "patches": patches.unflatten(1, backbone.grid(images))}
    return {kind: found[kind] for kind in kinds}
