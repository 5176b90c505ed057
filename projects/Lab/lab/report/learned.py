"""Pictures of what the backbone learned: the field, attention and patch features, before and after pretraining."""

import cv2
import numpy as np

from cropfield.canvas import fit
from cropfield.drawing import Instance
from lab.attention.weights import patch_attention
from lab.figures.feature_pictures import attention_picture, feature_colors, normalised
from lab.figures.field_pictures import QUERIES, field_picture, neighbour_similarity, similarity_picture
from lab.finished_runs import Pretraining
from lab.report.panels import Panel

LEAST_TOP = 2.0  # least top of the colour scale, in multiples of uniform attention, so that noise is not enlarged
NUM_SUBJECTS = 3
LARGEST_SIDE = 512  # pixels; attention grows with the fourth power of an image's side
Subject = tuple[np.ndarray, list[tuple[str, tuple[float, float]]]]


def subject(image: np.ndarray, instances: list[Instance]) -> Subject:
    """An image to show, uint8 RGB (H, W, 3), and query points: name and (x, y) in [0, 1].

    The points are deep inside its two largest objects, and far from every object.
    """
    masks = [(item.name, item.mask) for item in instances if item.mask is not None and item.mask.any()]
    masks.sort(key=lambda pair: -pair[1].sum())
    queries = [(name, deepest(mask)) for name, mask in masks[:2]]
    free = ~np.any([mask for _, mask in masks], axis=0) if masks else np.ones(image.shape[:2], dtype=bool)
    if free.any():
        queries.append(("background", deepest(free)))
    return fit(image, LARGEST_SIDE) if max(image.shape[:2]) > LARGEST_SIDE else image, queries


def deepest(mask: np.ndarray) -> tuple[float, float]:
    """The point (x, y) in [0, 1] inside a mask, bool (H, W), that is farthest from its border."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return (column + 0.5) / mask.shape[1], (row + 0.5) / mask.shape[0]


def field(pretraining: Pretraining) -> list[list[Panel]]:
    before, after = pretraining.untrained.pos_embed, pretraining.trained.pos_embed
    fields = {"before": before, f"after {pretraining.steps:,} steps": after, "what training added": after - before}
    rows = [[]]
    for name, pos_embed in fields.items():
        alike = f"{neighbour_similarity(pos_embed):.2f}".replace("-", "−")
        rows[0].append(Panel(field_picture(pos_embed), f"{name}; neighbours alike: {alike}", cells=True))
        rows.append([Panel(similarity_picture(pos_embed, query), name, cells=True) for query in QUERIES])
    return rows


def attention(pretraining: Pretraining, subjects: list[Subject]) -> list[list[Panel]]:
    backbones, rows = {"before": pretraining.untrained, "after": pretraining.trained}, []
    for image, queries in subjects:
        pixels = normalised(image, pretraining.trained.patch_size)
        shown, points, row = image[: pixels.shape[1], : pixels.shape[2]], [point for _, point in queries], []
        maps = [patch_attention(backbone, pixels, points).numpy() for backbone in backbones.values()]
        for (name, point), *pair in zip(queries, *maps, strict=True):
            top = max(LEAST_TOP, *(values.max() for values in pair))
            for when, values in zip(backbones, pair, strict=True):
                picture = attention_picture(shown, values, point, top)
                row.append(Panel(picture, f"{name}, {when}: {values.max():.1f}×"))
        rows.append(row)
    return rows


def features(pretraining: Pretraining, subjects: list[Subject]) -> list[list[Panel]]:
    images = [image for image, _ in subjects]
    columns = [[Panel(fit(image, 240), "image") for image in images]]
    for when, backbone in (("before", pretraining.untrained), ("after", pretraining.trained)):
        columns.append([Panel(picture, when, cells=True) for picture in feature_colors(backbone, images)])
    return [list(row) for row in zip(*columns, strict=True)]
