"""Pictures logged during a run, for TensorBoard and others: the field, masks of a batch, attention and features."""

import itertools

import numpy as np
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor

from cropfield.canvas import as_rgb, column, fit, row
from lab.attention.weights import patch_attention
from lab.figures.feature_pictures import OF_RGB, Statistics, attention_picture, feature_colors, normalised
from lab.figures.field_pictures import QUERIES, field_picture, similarity_picture
from lab.figures.mask_pictures import content_mask_picture, position_mask_picture, spread_by_count
from pretrain.data import pixel_statistics_of
from pretrain.data.decode import BrokenImage
from pretrain.engine.loop import due
from pretrain.models.vit import VisionTransformer
from pretrain.ranges import Count, Whole

SIDE = 224  # side in pixels of a tile, and of the backbone's input
POINTS = ((0.5, 0.5), (0.2, 0.8))  # queries of the attention, (x, y)
LEAST_TOP = 2.0  # least top of the colour scale, in multiples of uniform attention, so that noise is not enlarged
NUM_MASKS = 4
LOOKED_AT = 1000  # images of the source, to find some to draw
MASKS = {"content_masks": content_mask_picture, "position_masks": position_mask_picture}


class PeriodicPictures(HookBase):
    """Log pictures of the field, the current batch's masks, and attention on fixed images to the event storage.

    Args:
        period: steps between pictures; 0 turns them off.
        num_images: images for attention and features, the first of the run's source that can be read and have a patch
            when they are drawn, which long and narrow ones do not.
    """

    def __init__(self, period: Whole = 1000, num_images: Count = 3):
        self.period, self.num_images = period, num_images
        self.images = None

    def after_step(self) -> None:
        if not due(self.trainer.iter + 1, self.period) or not comm.is_main_process():
            return
        if self.images is None:
            self.images = self.read_images()
        backbone = self.trainer.model.backbone
        pictures = {
            "field": field_overview(backbone),
            "masks": masks_overview(self.trainer.batch, backbone.patch_size),
            "attention": attention_overview(backbone, self.images, pixel_statistics_of(self.trainer.model)),
        }
        for name, picture in pictures.items():
            if picture is not None:
                self.trainer.storage.put_image(f"pictures/{name}", picture.transpose(2, 0, 1))

    def read_images(self) -> list:
        source = self.trainer.loader.source

        def usable():
            for index in range(min(len(source), LOOKED_AT)):
                try:
                    image = source.load(index)
                except BrokenImage:  # the loader counts broken images
                    continue
                if min(fit(image, SIDE).shape[:2]) >= self.trainer.model.backbone.patch_size:
                    yield image

        return list(itertools.islice(usable(), self.num_images))


def field_overview(backbone: VisionTransformer) -> np.ndarray:
    """The field's first three principal components as colours, then the similarity of four positions to all others."""
    field = backbone.pos_embed.detach().cpu().unflatten(1, backbone.field_size)
    return row([field_picture(field, side=SIDE), *(similarity_picture(field, query, SIDE) for query in QUERIES)])


def masks_overview(batch: dict[str, Tensor], patch_size: int) -> np.ndarray | None:
    """Global crops with masks, one row for each kind, from least to most masked; None if nothing is masked."""
    rows = []
    for name, draw in MASKS.items():
        factor = max(1, SIDE // batch["global_crops"].shape[-1])
        tiles = [
            draw(batch["global_crops"][crop], batch[name][crop].cpu(), patch_size, factor)
            for crop in spread_by_count(batch.get(name), NUM_MASKS)
        ]
        rows += [row([fit(tile, SIDE) for tile in tiles])] if tiles else []
    return column(rows) if rows else None


def attention_overview(
    backbone: VisionTransformer, images: list[np.ndarray], statistics: Statistics = OF_RGB
) -> np.ndarray | None:
    """One row for each image, uint8 (H, W, C): the image, its patch features as colours, attention from two points.
    None without any.

    Colours have one basis for all images. Attention is from the last layer, averaged over heads, in multiples of
    uniform. Images of bands other than RGB are shown as `as_rgb` does.
    """
    if not images:
        return None
    images = [fit(image, SIDE) for image in images]
    rows = []
    for image, features in zip(images, feature_colors(backbone, images, SIDE, statistics), strict=True):
        pixels = normalised(image, backbone.patch_size, statistics)
        image = as_rgb(image)
        height, width = pixels.shape[1:]
        maps = patch_attention(backbone, pixels.to(backbone.pos_embed.device), list(POINTS)).cpu().numpy()
        top = max(LEAST_TOP, maps.max())
        glow = [
            attention_picture(image[:height, :width], m, point, top, SIDE)
            for m, point in zip(maps, POINTS, strict=True)
        ]
        rows.append(row([image, features, *glow]))
    return column(rows)
