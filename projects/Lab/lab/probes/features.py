"""Features of a frozen backbone: one vector for each image, from its last layer or last few layers."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lab.probes.framing import FramedImages
from lab.probes.labelled import LabelledImages
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.data.workers import start_worker, watched
from pretrain.models.attention import pack
from pretrain.models.vit import VisionTransformer


def own_pool(backbone: VisionTransformer) -> str:
    """A backbone's image representation (StoP, App. C.2): "cls", or "patch" (mean) if it has no class token."""
    return "patch" if backbone.cls_token is None else "cls"


@torch.no_grad()
def pooled_layers(backbone: VisionTransformer, images: Tensor, layers: int, pools: Sequence[str]) -> Tensor:
    """One vector for each of the last `layers` blocks and each kind of pooling -> (B, len(pools), layers, D).

    Every layer passes the backbone's final norm, as in DINO's evaluation, so the last one is the backbone's output.

    Args:
        images: (B, 3, H*p, W*p), normalised.
        pools: "cls", the class token, and "patch", the mean of the patches (StoP, Sec. 4.1, "average pooling").
    """
    packed, layout = pack([backbone.embed(images)])
    first_patch, collected = int(backbone.cls_token is not None), []
    for index, block in enumerate(backbone.blocks):
        packed = block(packed, layout)
        if index >= len(backbone.blocks) - layers:
            (features,) = layout.split(backbone.norm(packed))
            pooled = {"cls": features[:, 0], "patch": features[:, first_patch:].mean(1)}
            collected.append(torch.stack([pooled[pool] for pool in pools], dim=1))
    return torch.stack(collected, dim=2)


def framed_batches(
    images: FramedImages,
    device: torch.device | str,
    batch_size: int = 64,
    num_workers: int = 0,
    batches: list[list[int]] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (B, 3, S, S) on `device` and their indices (B,), -1 if broken.

    batches: the items of each batch; None: all in order, `batch_size` at a time.
    """
    loader = DataLoader(
        images,
        batch_sampler=batches or BatchSampler(range(len(images)), batch_size, drop_last=False),
        num_workers=num_workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # otherwise each start would advance torch's global generator
    )
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    for pixels, indices in watched(loader, lambda process: None) if num_workers else loader:
        yield (pixels.to(device).float() - mean) / std, indices


@torch.no_grad()
def extract_features(
    backbone: VisionTransformer,
    images: LabelledImages,
    indices: Sequence[int],
    image_size: int = 224,
    batch_size: int = 64,
    num_workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """Class tokens (or mean patch tokens) of some images -> (n, D) float32 and labels (n,), on the CPU.

    Images are resized to a shorter side of 8/7 of `image_size` and centre-cropped, as in DINO (256 and 224). Broken
    images are skipped. The backbone should be in eval mode and stays on its device.

    Args:
        image_size: side in pixels, a multiple of the patch size.
    """
    framed = FramedImages(images, indices, image_size)
    features, kept = [torch.zeros(0, backbone.embed_dim)], [torch.zeros(0, dtype=torch.int64)]
    for pixels, found in framed_batches(framed, backbone.pos_embed.device, batch_size, num_workers):
        readable = found >= 0
        pooled = pooled_layers(backbone, pixels[readable.to(pixels.device)], 1, [own_pool(backbone)])
        features.append(pooled[:, 0, 0].float().cpu())
        kept.append(found[readable])
    return torch.cat(features), images.labels[torch.as_tensor(list(indices), dtype=torch.int64)[torch.cat(kept)]]
