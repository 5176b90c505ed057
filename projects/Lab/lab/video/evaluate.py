"""A trunk on DAVIS-2017: objects of the first frame are followed through each video and compared with the truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lab.video.davis import Video, read_frame, read_mask, write_mask
from lab.video.features import frame_size, patch_features
from lab.video.measures import Statistics, boundary_measure, region_similarity, summarise
from lab.video.propagate import Propagation, to_labels, to_mask
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer


@dataclass(frozen=True)
class ObjectScore:
    """One object of one video; `name` is DAVIS's, VIDEO_NUMBER."""

    name: str
    region: Statistics
    boundary: Statistics


def follow(trunk: VisionTransformer, video: Video, propagation: Propagation, short_side: int) -> Iterator[np.ndarray]:
    """The masks of every frame of a video, uint8 (H, W), the first as it is given. One frame is in memory at a time.

    Raises:
        UserError: no object in the first annotation, a broken file, or one of another size than the first.
    """
    mask, _ = read_mask(video.masks[0])
    if not mask.any():
        raise UserError(f"{video.masks[0]} shows no object; the first frame's objects are what is followed")
    size = frame_size(*mask.shape, short_side, trunk.patch_size)
    grid = size[0] // trunk.patch_size, size[1] // trunk.patch_size
    device = trunk.patch_embed.proj.weight.device
    labels = to_labels(torch.from_numpy(mask), grid, int(mask.max()) + 1).to(device)
    yield mask
    features = (patch_features(trunk, _read_alike(frame, mask.shape), size) for frame in video.frames)
    for found in propagation.run(features, labels):
        yield to_mask(found, size, mask.shape).cpu().numpy()


def _read_alike(path: Path, shape: tuple[int, int]) -> np.ndarray:
    frame = read_frame(path)
    if frame.shape[:2] != shape:
        raise UserError(f"{path} has {frame.shape[:2]} pixels, its video's annotation {shape}; they must agree")
    return frame


def evaluate_video(
    trunk: VisionTransformer, video: Video, results: Path, propagation: Propagation, short_side: int = 480
) -> list[ObjectScore]:
    """Follow the objects of a video, write its masks to `results`/NAME as DAVIS wants them, and measure each object.

    The first frame, which is given, and the last are not measured, as in DAVIS's semi-supervised evaluation.

    Raises:
        UserError: see `follow`; or a mask cannot be written.
    """
    first, palette = read_mask(video.masks[0])
    measured: list[list[tuple[float, float]]] = [[] for _ in range(first.max())]
    for index, found in enumerate(follow(trunk, video, propagation, short_side)):
        write_mask(results / video.name / video.masks[index].name, found, palette)
        if 0 < index < len(video.masks) - 1:
            truth, _ = read_mask(video.masks[index])
            for number, values in enumerate(measured, 1):
                pair = found == number, truth == number
                values.append((region_similarity(*pair), boundary_measure(*pair)))
    scores = []
    for number, values in enumerate(measured, 1):
        region, boundary = (summarise(list(column)) for column in zip(*values, strict=True))
        scores.append(ObjectScore(f"{video.name}_{number}", region, boundary))
    return scores


def overall(scores: list[ObjectScore]) -> dict[str, float]:
    """Means over all objects of all videos, in percent: J and F with their recall and decay, and J&F."""
    metrics = {}
    for letter, measures in {"J": [s.region for s in scores], "F": [s.boundary for s in scores]}.items():
        for statistic in ("mean", "recall", "decay"):
            metrics[f"{letter}_{statistic}"] = 100 * float(np.mean([getattr(m, statistic) for m in measures]))
    return {"JF_mean": (metrics["J_mean"] + metrics["F_mean"]) / 2} | metrics
