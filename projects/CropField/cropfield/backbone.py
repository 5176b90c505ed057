"""CropField's ViT as a Detectron2 `Backbone`, and the simple feature pyramid over it."""

import math
from typing import Annotated

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone, SimpleFeaturePyramid
from torch import Tensor

from pretrain.errors import UserError
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
        out_feature: name of the one output.
        final_norm, class_token: False in ViTDet and here; True keeps what pretraining had.
        square_pad: pad images to squares of so many pixels; 0 pads to multiples of `size_divisibility`.
        backbone: the other arguments of `VisionTransformer`. Its small initial LayerScale is right from scratch too:
            blocks that begin near the identity train faster (tiny detector: 16.6 box AP, with gamma 1 only 9.0).
    """

    def __init__(
        self,
        *,
        out_feature: str = "last_feat",
        final_norm: bool = False,
        class_token: bool = False,
        square_pad: Annotated[int, Range(0, 2**14)] = 0,
        **backbone,
    ):
        super().__init__(final_norm=final_norm, class_token=class_token, **backbone)
        self.square_pad = square_pad
        self._out_features = [out_feature]
        self._out_feature_channels = {out_feature: self.embed_dim}
        self.stride = feature_stride(self.patch_size)
        self._out_feature_strides = {out_feature: self.stride}

    @property
    def size_divisibility(self) -> int:
        return math.lcm(self.patch_size, self.stride)

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility, "square_size": self.square_pad}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H*s, W*s), s the stride -> {out_feature: (B, D, H, W)}."""
        grid = self.grid(images)
        (tokens,) = self.encode([self.embed(images)])
        patches = tokens if self.cls_token is None else tokens[:, 1:]
        features = patches.transpose(1, 2).unflatten(2, grid)
        if self.stride != self.patch_size:
            size = [side // self.stride for side in images.shape[-2:]]
            features = F.interpolate(features, size, mode="bilinear", align_corners=False)
        return {self._out_features[0]: features}


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
        frozen: keep the backbone as it is, drop path off, and train what reads it alone.
    """

    def __init__(self, net: Backbone, frozen: bool = False):
        super().__init__()
        self.net, self.frozen = net, frozen
        if frozen:
            net.requires_grad_(False).eval()

    @property
    def size_divisibility(self) -> int:
        return self.net.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.net.padding_constraints

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.net.output_shape()

    def train(self, mode: bool = True) -> "PlainBackbone":
        super().train(mode)
        self.net.train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H*p, W*p) -> {out_feature: (B, D, H, W)}."""
        return self.net(images)
