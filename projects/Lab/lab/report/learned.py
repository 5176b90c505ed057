"""Sections on what the trunk learned: the field, attention, patch features; each before and after pretraining."""

from dataclasses import dataclass

import cv2
import numpy as np

from cropfield.canvas import fit
from lab.attention.weights import patch_attention
from lab.figures.feature_pictures import attention_picture, feature_colors, normalised
from lab.figures.field_pictures import QUERIES, field_picture, neighbour_similarity, similarity_picture
from lab.report.elements import Panel, figure, panels
from lab.report.pretraining import Pretraining

BACKGROUND = "background"
LEAST_TOP = 2.0  # of the colour scale, in multiples of uniform attention: what is nearly uniform looks so
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
    before, after = pretraining.untrained.pos_embed, pretraining.trained.pos_embed
    fields = {
        "before": before,
        f"after {pretraining.steps:,} steps": after,
        "what training added": after - before,
    }
    colored = []
    for name, field in fields.items():
        alike = f"{neighbour_similarity(field):.2f}".replace("-", "−")
        colored.append(Panel(field_picture(field), f"{name}; neighbours alike: {alike}", cells=True))
    rows = [
        panels([Panel(similarity_picture(field, query), name, cells=True) for query in QUERIES], len(QUERIES), 76, 200)
        for name, field in fields.items()
    ]
    return figure(
        panels(colored, 3, 105, 280) + "".join(rows),
        "Above, the three main directions of the field as red, green and blue, each field in its own: noise at the "
        "start, unless the config starts it as sine-cosine; in the end colours that change smoothly over the image. "
        "The number is the mean cosine of adjacent cells, 0 in noise. Below, the cosine of the position at the red dot "
        "with every other (the field's mean taken off; yellow +1, green 0, dark −1): the dot's surroundings become "
        "like it. In a short run the start covers what was learned; the difference, after minus before, shows it.",
        "A difference that is noise too (crops never sampled the field), stripes, or cells of one colour.",
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
            top = max(LEAST_TOP, before[index].max(), after[index].max())
            for when, maps in (("before", before), ("after", after)):
                picture = attention_picture(image, maps[index], point, top)
                row.append(Panel(picture, f"{name}, {when}: {maps[index].max():.1f}×"))
        rows.append(panels(row, 2 * len(item.queries), 120, 200))
    return figure(
        "".join(rows),
        "Where the patch under the dot looks in the last layer (mean over heads), on one scale for each pair: dark up "
        "to uniform attention, bright for the largest, which is the number, in multiples of uniform. An untrained "
        "trunk looks everywhere alike (about 1×: nothing glows). After training, the glow gathers around the dot or on "
        "what belongs with it, and differs between object and background.",
        "The same map whatever the query, all of it on a corner or border, or no change from before.",
    )


def features_section(pretraining: Pretraining, subjects: list[Subject]) -> str:
    images = [item.image for item in subjects]
    before = feature_colors(pretraining.untrained, images)
    after = feature_colors(pretraining.trained, images)
    columns = [[Panel(fit(image, 240), "image") for image in images]]
    for when, pictures in (("before", before), ("after", after)):
        columns.append([Panel(picture, when, cells=True) for picture in pictures])
    rows = [panels(list(triple), 3, 100, 220) for triple in zip(*columns, strict=True)]
    return figure(
        "".join(rows),
        "The three main directions of the patch features, the same for all images of a column. Patches of one colour "
        "have like features: after training, objects should stand out from the ground, and like things look alike.",
        "One colour everywhere (collapse), or the same pattern in every image (only the position is left).",
    )
