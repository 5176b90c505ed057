"""CropField's ViT as a Detectron2 `Backbone`, and the simple feature pyramid over it."""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone, SimpleFeaturePyramid
from torch import Tensor

from pretrain.errors import UserError
from pretrain.models.attention import pack
from pretrain.models.vit import VisionTransformer
from pretrain.ranges import Range

SCALES = (4.0, 2.0, 1.0, 0.5)  # that Detectron2's simple feature pyramid can make


def feature_stride(patch_size: int) -> int:
    """The power of two nearest to the patch's pixels: pyramids, anchors and poolers are made for no other strides."""
    return 2 ** round(math.log2(patch_size))


def pyramid_scales(patch_size: int, strides: list[int]) -> tuple[float, ...]:
    """A simple feature pyramid's `scale_factors` for levels of these strides, in pixels. Raises UserError."""
    scales = tuple(feature_stride(patch_size) / stride for stride in strides)
    if not set(scales) <= set(SCALES):
        possible = [int(feature_stride(patch_size) / scale) for scale in SCALES]
        raise UserError(
            f"over patches of {patch_size} pixels a pyramid has the strides {possible}, and the detector wants "
            f"{list(strides)}; choose another patch_size, or change model.backbone.scale_factors.strides and with them "
            "the anchors and poolers"
        )
    return scales


class CropFieldViT(VisionTransformer, Backbone):
    """The pretraining backbone, unchanged, with Detectron2's interface: an exported file loads name by name.

    Global attention in every block, no windows and no relative positions (App. B.2). The whole image is the whole
    position field, so any image size works. Unlike `detectron2.modeling.ViT` it keeps LayerScale. Patches of 14 pixels,
    say, give a map that is resampled (bilinear) to a stride of 16: see `feature_stride`.

    Args:
        out_feature: name of the last block's map, the one output.
        out_features: other outputs instead: for each name a block, counted from 0, from the end where negative, or
            several, whose maps are put together channel by channel. {"last_feat": [2, 5, 8, 11]} feeds a pyramid four
            layers, as frozen backbones are mostly read; {"res2": 2, "res3": 5} are two maps for heads that want such.
        final_norm, class_token: False in ViTDet and here; True keeps what pretraining had.
        square_pad: pad images to squares of so many pixels; 0 pads to multiples of `size_divisibility`.
        frozen: keep the weights: no gradient, nothing stored for one, and eval mode (no drop path) at all times.
        backbone: the other arguments of `VisionTransformer`. Its small initial LayerScale is right from scratch too:
            blocks that begin near the identity train faster (tiny detector: 16.6 box AP, with gamma 1 only 9.0).
    """

    def __init__(
        self,
        *,
        out_feature: str = "last_feat",
        out_features: dict[str, int | list[int]] | None = None,
        final_norm: bool = False,
        class_token: bool = False,
        square_pad: Annotated[int, Range(0, 2**14)] = 0,
        frozen: bool = False,
        **backbone,
    ):
        super().__init__(final_norm=final_norm, class_token=class_token, **backbone)
        self.square_pad, self.frozen = square_pad, frozen
        self.out_blocks = blocks_by_name({out_feature: -1} if out_features is None else out_features, len(self.blocks))
        self._out_features = list(self.out_blocks)
        self._out_feature_channels = {name: self.embed_dim * len(blocks) for name, blocks in self.out_blocks.items()}
        self.stride = feature_stride(self.patch_size)
        self._out_feature_strides = dict.fromkeys(self.out_blocks, self.stride)
        if frozen:
            self.requires_grad_(False).eval()

    @property
    def size_divisibility(self) -> int:
        return math.lcm(self.patch_size, self.stride)

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility, "square_size": self.square_pad}

    def train(self, mode: bool = True) -> "CropFieldViT":
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        """Normalised images (B, 3, H*s, W*s), s the stride -> {name: (B, D, H, W)}, D times the blocks of that output.

        What it has returned before, in the place of images, it returns again: see `cropfield.feature_cache`.
        """
        if isinstance(images, dict):
            return images
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.feature_maps(images)

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """`forward`, with gradients wherever the weights have them."""
        grid, maps = self.grid(images), {}
        packed, layout = pack([self.embed(images)])
        wanted = {block for blocks in self.out_blocks.values() for block in blocks}
        for number, encoded in enumerate(self.block_by_block(packed, layout)):
            if number in wanted:
                (tokens,) = layout.split(self.norm(encoded))
                patches = tokens if self.cls_token is None else tokens[:, 1:]
                maps[number] = patches.transpose(1, 2).unflatten(2, grid)
        joined = {name: [maps[block] for block in blocks] for name, blocks in self.out_blocks.items()}
        features = {name: torch.cat(parts, dim=1) if parts[1:] else parts[0] for name, parts in joined.items()}
        if self.stride == self.patch_size:
            return features
        size = [side // self.stride for side in images.shape[-2:]]
        return {n: F.interpolate(f, size, mode="bilinear", align_corners=False) for n, f in features.items()}


def blocks_by_name(out_features: Mapping[str, int | list[int]], depth: int) -> dict[str, list[int]]:
    """`CropFieldViT`'s out_features as lists of blocks 0 to depth - 1. Raises UserError."""
    found = {name: [blocks] if isinstance(blocks, int) else list(blocks) for name, blocks in out_features.items()}
    numbers = [number for blocks in found.values() for number in blocks]
    if not found or not all(found.values()) or not -depth <= min(numbers) <= max(numbers) < depth:
        raise UserError(
            f"out_features is {found}: give each output a block of this backbone, 0 to {depth - 1}, or a list of them"
        )
    return {name: [block % depth for block in blocks] for name, blocks in found.items()}


class CropFieldFeaturePyramid(SimpleFeaturePyramid):
    """Detectron2's simple feature pyramid that also takes images which are not padded to a square.

    Upstream spells a key of its padding constraints so that `ImageList` does not see it; without square padding an
    image whose sides do not divide by the largest stride then fails. Parameters and keys are upstream's.
    """

    @property
    def size_divisibility(self) -> int:
        return math.lcm(self._size_divisibility, self.net.size_divisibility)

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility, "square_size": self._square_pad}


class PlainBackbone(Backbone):
    """The backbone without a pyramid, for heads that read its one feature map: semantic segmentation.

    The backbone is called `net`, as it is under a pyramid, so that weights, configs and presets know it by the same
    names.

    Args:
        net: a `CropFieldViT`.
    """

    def __init__(self, net: Backbone):
        super().__init__()
        self.net = net

    @property
    def size_divisibility(self) -> int:
        return self.net.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.net.padding_constraints

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.net.output_shape()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H*p, W*p) -> {out_feature: (B, D, H, W)}."""
        return self.net(images)
