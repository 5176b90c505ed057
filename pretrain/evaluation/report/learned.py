"""Sections on what the trunk learned: the field, attention, patch features; each before and after pretraining."""

from dataclasses import dataclass

import cv2
import numpy as np

from pretrain.evaluation.attention import patch_attention
from pretrain.evaluation.canvas import fit
from pretrain.evaluation.feature_pictures import attention_picture, feature_colors, normalised
from pretrain.evaluation.field_pictures import QUERIES, field_picture, neighbour_similarity, similarity_picture
from pretrain.evaluation.report.elements import Panel, figure, panels
from pretrain.evaluation.report.pretraining import Pretraining

BACKGROUND = "background"
LARGEST_SIDE = 512  # pixels; attention grows with the fourth power of an image's side


@dataclass(frozen=True)
class Subject:
    """An image to look at, uint8 RGB (H, W, 3), and `queries`: (name, (x, y) in [0, 1])."""

    image: np.ndarray
    queries: list[tuple[str, tuple[float, float]]]


def subject(image: np.ndarray, objects: list[tuple[str, np.ndarray | None]]) -> Subject:
    """Query points for an image: deep inside its two largest objects (name, mask), and far from every object."""
    masks = [(name, mask) for name, mask in objects if mask is not None and mask.any()]
    masks.sort(key=lambda pair: -pair[1].sum())
    queries = [(name, deepest(mask)) for name, mask in masks[:2]]
    free = ~np.any([mask for _, mask in masks], axis=0) if masks else np.ones(image.shape[:2], dtype=bool)
    if free.any():
        queries.append((BACKGROUND, deepest(free)))
    return Subject(fit(image, LARGEST_SIDE) if max(image.shape[:2]) > LARGEST_SIDE else image, queries)


def deepest(mask: np.ndarray) -> tuple[float, float]:
    """The point (x, y) in [0, 1] inside a mask bool (H, W) that is farthest from its border."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return (column + 0.5) / mask.shape[1], (row + 0.5) / mask.shape[0]


def field_section(pretraining: Pretraining) -> str:
    fields = {
        "before": pretraining.untrained.pos_embed,
        f"after {pretraining.steps:,} steps": pretraining.trained.pos_embed,
    }
    colored = [
        Panel(field_picture(field), f"{when}; neighbours' cosine {neighbour_similarity(field):.2f}", cells=True)
        for when, field in fields.items()
    ]
    rows = "".join(
        panels([Panel(similarity_picture(field, query), when) for query in QUERIES], len(QUERIES), 84, 200)
        for when, field in fields.items()
    )
    return figure(
        panels(colored, 2, 140) + rows,
        "Above, the three main directions of the field as red, green and blue, each field in its own directions: noise "
        "before, colours that change smoothly over the image after. Below, the cosine of the position at the red dot "
        "with every other (the field's mean taken off; yellow +1, green 0, dark −1): at first only the dot itself is "
        "alike, later its surroundings are.",
        "After training still noise (too few steps, or crops never sample the field), stripes or cells of one colour.",
    )


def attention_section(pretraining: Pretraining, subjects: list[Subject]) -> str:
    rows = []
    for item in subjects:
        pixels = normalised(item.image, pretraining.trained.patch_size)
        points = [point for _, point in item.queries]
        before = patch_attention(pretraining.untrained, pixels, points).numpy()
        after = patch_attention(pretraining.trained, pixels, points).numpy()
        height, width = pixels.shape[1:]
        image = item.image[:height, :width]
        row = []
        for index, (name, point) in enumerate(item.queries):
            top = max(before[index].max(), after[index].max())
            for when, maps in (("before", before), ("after", after)):
                picture = attention_picture(image, maps[index], point, top)
                row.append(Panel(picture, f"{name}, {when}: at most {maps[index].max():.1f}×"))
        rows.append(panels(row, 2 * len(item.queries), 120, 200))
    return figure(
        "".join(rows),
        "Where the patch under the dot looks in the last layer (mean over heads), on the same scale before and after "
        "training; the number is the largest value in multiples of uniform attention. An untrained trunk looks "
        "everywhere alike (1×). After training, the glow gathers around the dot or on what belongs with it, and differs "
        "between object and background.",
        "The same map whatever the query, all of it on a corner or border, or no change from before.",
    )


def features_section(pretraining: Pretraining, subjects: list[Subject]) -> str:
    images = [item.image for item in subjects]
    before = feature_colors(pretraining.untrained, images)
    after = feature_colors(pretraining.trained, images)
    columns = [[Panel(fit(image, 240), "image") for image in images]]
    columns += [
        [Panel(p, when, cells=True) for p in pictures] for when, pictures in (("before", before), ("after", after))
    ]
    rows = [panels(list(triple), 3, 100, 220) for triple in zip(*columns, strict=True)]
    return figure(
        "".join(rows),
        "The three main directions of the patch features, the same for all images of a column. Patches of one colour "
        "have like features: after training, objects should stand out from the ground, and like things be coloured alike.",
        "One colour everywhere (collapse), or the same pattern in every image (only the position is left).",
    )
