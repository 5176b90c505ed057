"""Which patches are masked, and the features that the losses read: class tokens, and those patches."""

from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.models.attention import Layout
from pretrain.models.vit import VisionTransformer


class MaskedPatches(NamedTuple):
    """The patches of the global crops, (V*B, N), whose content or whose position is masked, n in all."""

    mask: Tensor  # (V*B, N) bool
    index: Tensor  # (n,) where the flattened mask is true
    weight: Tensor  # (n,) float64: a mean over its crop's masked patches, summed over crops, divided by all crops

    @classmethod
    def of(cls, mask: Tensor) -> "MaskedPatches":
        """Of masks (V*B, N); it waits for the device, so call it once a step."""
        index = mask.flatten().nonzero().flatten()
        weight = mask.double() / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)
        return cls(mask, index, weight.flatten()[index])


class Features(NamedTuple):
    """A backbone's features of a batch's crops, as far as the heads need them."""

    cls: Tensor  # (crops, D) class tokens, view-major
    patches: dict[str, Tensor]  # (n, D) of the global crops' masked patches, by kind of mask


def crop_features(backbone: VisionTransformer, groups: list[Tensor], masked: dict[str, MaskedPatches]) -> Features:
    """Batches of sequences (B_g, 1 + N_g, D), the global crops' first, as one packed sequence through `backbone`."""
    layout, num_patches = Layout.of(groups), groups[0].shape[1] - 1
    kept = [layout.starts(groups[0].device)]
    kept += [m.index + m.index // num_patches + 1 for m in masked.values()]  # each crop begins with its class token
    cls, *patches = backbone.encode(groups, torch.cat(kept)).split([len(index) for index in kept])
    return Features(cls, dict(zip(masked, patches, strict=True)))
