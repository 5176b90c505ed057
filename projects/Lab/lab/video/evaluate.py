"""Evaluate a backbone on DAVIS-2017: propagate the first frame's masks through each video and compare with the
truth.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.figures.feature_pictures import normalised
from lab.video.davis import Video, read_frame, read_mask, write_mask
from lab.video.measures import Statistics, boundary_measure, region_similarity, summarise
from lab.video.propagate import Propagation, to_labels, to_mask
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer

ROUNDING = 64  # of a frame's longer side, as in DINO; a multiple of common patch sizes


@dataclass(frozen=True)
class ObjectScore:
    """Scores of one object of one video; `name` is VIDEO_NUMBER, as in DAVIS."""

    name: str
    region: Statistics
    boundary: Statistics


def frame_size(height: int, width: int, short_side: int, patch: int) -> tuple[int, int]:
    """(H, W) that a frame is resized to: DAVIS's 480 x 854 becomes 480 x 832, as in DINO.

    The longer side is rounded down to a multiple of 64. If the patch size does not divide that (ViT-H/14), both sides
    are rounded down to multiples of the patch size, which no paper specifies.
    """
    unit = ROUNDING if ROUNDING % patch == 0 else patch
    short = max(1, short_side // patch) * patch
    long = max(1, short_side * max(height, width) // min(height, width) // unit) * unit
    return (long, short) if height > width else (short, long)


@torch.no_grad()
def patch_features(backbone: VisionTransformer, frame: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Patch tokens of the last layer, normalised to unit length: uint8 (H, W, 3), resized to `size` -> (h, w, D)
    float32.
    """
    resized = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
    images = normalised(resized, backbone.patch_size)[None].to(backbone.pos_embed.device)
    _, patches = backbone(images)
    return F.normalize(patches[0].float(), dim=-1).unflatten(0, backbone.grid(images))


def propagate_masks(
    backbone: VisionTransformer, video: Video, propagation: Propagation, short_side: int
) -> Iterator[np.ndarray]:
    """Yield the mask of every frame of a video, uint8 (H, W), starting with the given one. Frames are loaded one at a
    time.

    Raises:
        UserError: no object in the first annotation, a broken file, or a file whose size differs from the first's.
    """
    mask, _ = read_mask(video.masks[0])
    if not mask.any():
        raise UserError(f"{video.masks[0]} has no object; the first frame must show the objects to follow")
    size = frame_size(*mask.shape, short_side, backbone.patch_size)
    grid = size[0] // backbone.patch_size, size[1] // backbone.patch_size
    labels = to_labels(torch.from_numpy(mask), grid, int(mask.max()) + 1).to(backbone.pos_embed.device)
    yield mask
    features = (patch_features(backbone, _read_alike(frame, mask.shape), size) for frame in video.frames)
    for found in propagation.run(features, labels):
        yield to_mask(found, size, mask.shape).cpu().numpy()


def _read_alike(path: Path, shape: tuple[int, int]) -> np.ndarray:
    frame = read_frame(path)
    if frame.shape[:2] != shape:
        raise UserError(f"{path} has {frame.shape[:2]} pixels, its video's annotation {shape}; they must agree")
    return frame


def evaluate_video(
    backbone: VisionTransformer, video: Video, results: Path, propagation: Propagation, short_side: int = 480
) -> list[ObjectScore]:
    """Propagate a video's masks, write them to `results`/NAME in DAVIS's format, and score each object.

    The first frame, which is given, and the last are not scored, as in DAVIS's semi-supervised evaluation.

    Raises:
        UserError: see `propagate_masks`; or a mask cannot be written.
    """
    first, palette = read_mask(video.masks[0])
    regions, boundaries = ([[] for _ in range(first.max())] for _ in range(2))
    for index, found in enumerate(propagate_masks(backbone, video, propagation, short_side)):
        write_mask(results / video.name / video.masks[index].name, found, palette)
        if 0 < index < len(video.masks) - 1:
            truth, _ = read_mask(video.masks[index])
            if truth.shape != found.shape:
                raise UserError(f"{video.masks[index]} has another size than the first annotation; get it again")
            for number, (region, boundary) in enumerate(zip(regions, boundaries, strict=True), 1):
                region.append(region_similarity(found == number, truth == number))
                boundary.append(boundary_measure(found == number, truth == number))
    return [
        ObjectScore(f"{video.name}_{number}", summarise(region), summarise(boundary))
        for number, (region, boundary) in enumerate(zip(regions, boundaries, strict=True), 1)
    ]


def overall(scores: list[ObjectScore]) -> dict[str, float]:
    """Means over all objects of all videos, in percent: J and F with recall and decay, and J&F."""
    metrics = {}
    for letter, measures in {"J": [s.region for s in scores], "F": [s.boundary for s in scores]}.items():
        for statistic in ("mean", "recall", "decay"):
            metrics[f"{letter}_{statistic}"] = 100 * float(np.mean([getattr(m, statistic) for m in measures]))
    return {"JF_mean": (metrics["J_mean"] + metrics["F_mean"]) / 2} | metrics
