"""CropField's ViT as a Detectron2 `Backbone`, and its simple feature pyramid."""

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

SCALES = (4.0, 2.0, 1.0, 0.5)  # supported by Detectron2's simple feature pyramid


def feature_stride(patch_size: int) -> int:
    """The power of two nearest, in ratio, to a patch's pixels; pyramids, anchors and poolers need such a stride."""
    return 2 ** round(math.log2(patch_size))


def pyramid_scales(patch_size: int, strides: list[int]) -> tuple[float, ...]:
    """The simple feature pyramid's `scale_factors` for levels with these strides, in pixels. Raises UserError."""
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
    """The pretraining backbone with Detectron2's interface; exported files load without renaming any key.

    Global attention in every block, no windows and no relative positions (App. B.2). The whole image covers the whole
    position field, so any image size works. Unlike `detectron2.modeling.ViT` it keeps LayerScale. If the patch size is
    not a power of two (14, for example), the map is resampled bilinearly to the stride of `feature_stride`.

    Args:
        out_feature: name of the single output, the map of the last block.
        out_features: replaces `out_feature`: maps each output name to a block index (from 0, negative from the end), or
            to a list of blocks whose maps are concatenated along channels. {"last_feat": [2, 5, 8, 11]} feeds a pyramid
            four layers, as is common with frozen backbones; {"res2": 2, "res3": 5} gives two maps.
        final_norm, class_token: False here as in ViTDet; True keeps them as in pretraining.
        square_pad: pad images to squares of this many pixels; 0 pads to multiples of `size_divisibility`.
        frozen: train without updating the backbone: no gradients, no stored activations, always in eval mode (no drop
            path).
        backbone: other arguments of `VisionTransformer`. Its small initial LayerScale also suits training from scratch:
            blocks that start near the identity train faster (tiny detector: 16.6 box AP, against 9.0 with gamma 1).
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
        """Normalised images (B, 3, H*s, W*s), s the stride -> {name: (B, D, H, W)}, D times the number of blocks
        concatenated.

        Maps that it returned earlier may be passed instead of images, and are returned unchanged: see
        `cropfield.feature_cache`.
        """
        if isinstance(images, dict):
            return images
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.feature_maps(images)

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """As `forward`, but always with gradients if the weights require them."""
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
    """Normalise `CropFieldViT`'s out_features to lists of block indices 0 to depth - 1. Raises UserError."""
    found = {name: [blocks] if isinstance(blocks, int) else list(blocks) for name, blocks in out_features.items()}
    numbers = [number for blocks in found.values() for number in blocks]
    if not found or not all(found.values()) or not -depth <= min(numbers) <= max(numbers) < depth:
        raise UserError(
            f"out_features is {found}: give each output a block of this backbone, 0 to {depth - 1}, or a list of them"
        )
    return {name: [block % depth for block in blocks] for name, blocks in found.items()}


class CropFieldFeaturePyramid(SimpleFeaturePyramid):
    """Detectron2's simple feature pyramid, also for images that are not padded to a square.

    Upstream misspells a key of its padding constraints, so `ImageList` ignores it, and without square padding an image
    whose sides are not multiples of the largest stride fails. Parameters and their names are upstream's.
    """

    @property
    def size_divisibility(self) -> int:
        return math.lcm(self._size_divisibility, self.net.size_divisibility)

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility, "square_size": self._square_pad}


class PlainBackbone(Backbone):
    """The backbone without a pyramid, for heads that read a single feature map, such as semantic segmentation.

    The backbone is called `net`, as under a pyramid, so that weights, configs and presets use the same names.

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
