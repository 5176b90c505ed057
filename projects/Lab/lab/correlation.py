"""Find cheap metrics of a backbone that predict its detector's AP: metrics of frozen features, and rank
correlations.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy import stats
from tabulate import tabulate
from torch import Tensor

from cropfield.probe import DetectionProbe, backbone_features
from cropfield.probe_images import ProbeImages
from lab.probes.features import own_pool, pooled_layers
from lab.probes.knn import knn_accuracy
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.data.crops import resize_crop
from pretrain.data.decode import decode_image
from pretrain.methods.feature_statistics import effective_rank
from pretrain.models.vit import VisionTransformer

CONTEXT = 1.2  # side of an object's square crop, relative to the longer side of its box


def square_around(picture: np.ndarray, bbox: list[float], size: int) -> np.ndarray:
    """Square crop around a box (x, y, width, height) in pixels, uint8 (size, size, 3); grey outside the picture."""
    x, y, width, height = bbox
    side = max(1, round(CONTEXT * max(width, height)))
    corner = [[round(side / 2 - x - width / 2)], [round(side / 2 - y - height / 2)]]
    # whole pixels, so that only the resize, which is antialiased, interpolates
    square = cv2.warpAffine(picture, np.hstack([np.eye(2), corner]), (side, side), borderValue=(128, 128, 128))
    return resize_crop(square, (0, 0, side, side), size)


def object_crops(images: ProbeImages, size: int) -> tuple[Tensor, Tensor]:
    """Square crop around each object -> normalised pixels (n, 3, size, size) and classes (n,) int64."""
    crops, classes, names = [], [], list(images.coco.names)
    for index, image_id in enumerate(images.ids):
        picture = decode_image(images.path(index))
        for annotation in images.coco.truth[image_id]:
            crops.append(square_around(picture, annotation["bbox"], size))
            classes.append(names.index(annotation["category_id"]))
    pixels = (np.stack(crops) - np.float32(IMAGE_MEAN)) / np.float32(IMAGE_STD)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(classes)


class CheapMetrics:
    """Metrics of frozen backbones with one patch size: the detection probe's, and two of their objects' features.

    size: pixels of an object's crop, a multiple of the patch.
    """

    def __init__(self, train: ProbeImages, val: ProbeImages, size: int):
        self.probe = DetectionProbe(train, val)
        self.train, self.val = object_crops(train, size), object_crops(val, size)

    @torch.no_grad()
    def measure(self, backbone: VisionTransformer) -> dict[str, float]:
        """The probe's metrics, the k-NN accuracy of objects' classes in percent, and their features' effective rank."""

        def pooled(pixels: Tensor) -> Tensor:
            parts = [pooled_layers(backbone, part, 1, [own_pool(backbone)])[:, 0, 0] for part in pixels.split(64)]
            return torch.cat(parts)

        (known, known_classes), (asked, asked_classes) = (
            (pooled(pixels), classes) for pixels, classes in (self.train, self.val)
        )
        knn = 100 * knn_accuracy(known, known_classes, asked, asked_classes)
        probed = self.probe.measure(backbone_features(backbone))
        return probed | {"object_knn": knn, "object_rank": float(effective_rank(asked))}


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of `count` pairs, with a 95% interval; NaN if undefined."""

    rho: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, x: list[float | None], y: list[float | None]) -> "Correlation":
        """Correlation of the pairs without None; interval by Fisher's z with the variance of Bonett and Wright
        (2000).
        """
        pairs = [pair for pair in zip(x, y, strict=True) if None not in pair]
        if len(pairs) < 4 or any(len(set(values)) < 2 for values in zip(*pairs, strict=True)):
            return cls(math.nan, math.nan, math.nan, len(pairs))
        rho = float(stats.spearmanr(pairs).statistic)
        z = math.atanh(min(max(rho, -1 + 1e-9), 1 - 1e-9))
        half = 1.96 * math.sqrt((1 + rho**2 / 2) / (len(pairs) - 3))
        return cls(rho, math.tanh(z - half), math.tanh(z + half), len(pairs))

    def __str__(self) -> str:
        return f"{self.rho:+.2f} ({self.low:+.2f} to {self.high:+.2f}, n = {self.count})"


def table(rows: list[dict], figures: list[str], aps: list[str]) -> str:
    """Markdown: the correlation of each metric with each AP, then all values of each backbone."""
    names = [[figure, *(Correlation.of(column(rows, figure), column(rows, ap)) for ap in aps)] for figure in figures]
    values = [[row["backbone"], *(row.get(name) for name in (*figures, *aps))] for row in rows]
    return "\n\n".join(
        (
            tabulate(names, ["rank correlation with", *aps], tablefmt="github"),
            tabulate(values, ["backbone", *figures, *aps], tablefmt="github", floatfmt=".2f", missingval="–"),
        )
    )


def column(rows: list[dict], name: str) -> list[float | None]:
    return [row.get(name) for row in rows]


def plot(rows: list[dict], figures: list[str], aps: list[str], path) -> None:
    """Scatter plots with a panel for each metric (column) and AP (row), and a point for each backbone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shape = dict(figsize=(2.4 * len(figures), 2.4 * len(aps) + 0.4), squeeze=False, layout="constrained")
    canvas, panels = pyplot.subplots(len(aps), len(figures), sharex="col", sharey="row", **shape)
    styles = [{"color": f"C{number % 10}", "marker": "os^D"[number // 10 % 4]} for number in range(len(rows))]
    for down, ap in enumerate(aps):
        panels[down][0].set_ylabel(ap)
        for across, figure in enumerate(figures):
            panel = panels[down][across]
            panel.set_title(f"{Correlation.of(column(rows, figure), column(rows, ap)).rho:+.2f}", fontsize=9)
            for style, row in zip(styles, rows, strict=True):
                if None not in (row.get(figure), row.get(ap)):
                    panel.scatter(row[figure], row[ap], **style)
            panels[-1][across].set_xlabel(figure)
    handles = [
        pyplot.Line2D([], [], linestyle="", label=row["backbone"], **style)
        for style, row in zip(styles, rows, strict=True)
    ]
    canvas.legend(handles=handles, loc="outside right upper", fontsize=8)
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)
