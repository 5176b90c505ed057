"""Check that image sizes, padding, patch size and strides fit together, before training or inference."""

import numpy as np
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from cropfield.tiles import TiledRCNN
from pretrain.data import pixel_statistics
from pretrain.data.reading import AS_RGB
from pretrain.errors import UserError

SHAPES = ((480, 640), (640, 480), (200, 1400), (1400, 200), (64, 64))  # test images: height, width in pixels
DRAWS = 2  # random augmentations of each shape


def check_sizes(model: nn.Module, augmentations: T.Augmentation, key: str) -> None:
    """Raise UserError if a detector would see only parts of its images, or its maps do not fit its heads.

    Other kinds of models are not checked; they may cut images into windows.

    Args:
        augmentations: of a mapper.
        key: the mapper's config key, for the message.
    """
    if not isinstance(model, GeneralizedRCNN | DenseDetector):
        return
    backbone = model.backbone
    square = backbone.padding_constraints.get("square_size", 0)
    unit = getattr(backbone, "net", backbone).size_divisibility
    if square and unit and square % unit:
        near = [number for number in (square // unit * unit, (square // unit + 1) * unit) if number]
        raise UserError(
            f"model.backbone.square_pad={square} is not a multiple of the {unit} pixels that this backbone's patches "
            f"and strides ask for; set dataloader.image_size to {' or '.join(map(str, near))}"
        )
    height, width = largest(augmentations)
    if square and max(height, width) > square and (model.training or not isinstance(model, TiledRCNN)):
        raise UserError(
            f"{key}.augmentations make images of up to {width} x {height} pixels (width x height), and "
            f"model.backbone.square_pad={square} would cut them to {square} x {square}; make both agree "
            "(dataloader.image_size, which both follow in this repository's configs), or for tests set "
            "model._target_=cropfield.tiles.TiledRCNN"
        )
    check_strides(model)


def check_channels(model: nn.Module, mapper) -> None:
    """Raise UserError if a detector's backbone, its mean and deviation, and its images have other numbers of bands."""
    net = getattr(getattr(model, "backbone", None), "net", None)
    bands = getattr(net, "in_chans", None)
    if bands is None or not hasattr(model, "pixel_mean"):
        return
    pixel_statistics(bands, model.pixel_mean.flatten(), model.pixel_std.flatten())
    read = getattr(mapper, "reading", AS_RGB).channels
    if read != bands:
        raise UserError(
            f"model.backbone.net.in_chans is {bands}, and the mapper reads images of {read} bands: set "
            f"dataloader.train.mapper.channels and dataloader.test.mapper.channels to {bands}"
        )


def largest(augmentations: T.Augmentation) -> tuple[int, int]:
    """The largest height and width that images of common shapes are resized to."""
    sides = []
    for shape in SHAPES * DRAWS:
        image = T.AugInput(np.zeros((*shape, 3), dtype=np.uint8))
        augmentations(image)
        sides.append(image.image.shape[:2])
    return tuple(int(side) for side in np.max(sides, axis=0))


def check_strides(model: nn.Module) -> None:
    """Raise UserError if anchors or poolers are made for other strides than the backbone's."""
    levels = {name: shape.stride for name, shape in model.backbone.output_shape().items()}
    proposals, heads = getattr(model, "proposal_generator", None), getattr(model, "roi_heads", None)
    asked = {}
    if hasattr(proposals, "anchor_generator"):
        asked["model.proposal_generator"] = (proposals.in_features, proposals.anchor_generator.strides)
    for part in ("box", "mask"):
        pooler = getattr(heads, f"{part}_pooler", None)
        if pooler is not None:
            strides = [1 / level.spatial_scale for level in pooler.level_poolers]
            asked[f"model.roi_heads.{part}_pooler"] = (getattr(heads, f"{part}_in_features", None), strides)
    for name, (features, strides) in asked.items():
        if features and [levels.get(feature) for feature in features] != list(strides):
            have = ", ".join(f"{level} ({stride})" for level, stride in levels.items())
            want = ", ".join(f"{f} ({s:g})" for f, s in zip(features, strides, strict=False))
            raise UserError(
                f"{name} is made for the levels {want}, by name and stride, and the backbone gives {have}; choose the "
                "patch_size that this config is for, or change both"
            )
