"""Carrying labels from frame to frame by the similarity of patches, without training anything.

The protocol of DINO (Caron et al. 2021, Sec. 4.2.2, after Jabri et al. 2020), which StoP follows (App. C.2): a patch
takes the labels of the patches that it resembles most in the first frame and in the frames just before, among those
near its own place.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Propagation:
    """How labels are carried; the defaults are DINO's.

    Args:
        context: frames before the present one that are looked at, besides the first.
        radius: how far, in patches along each axis, a patch may have come.
        top_k: patches whose labels are mixed, over all frames together.
        temperature: of the softmax over their cosines.
    """

    context: int = 7
    radius: int = 12
    top_k: int = 5
    temperature: float = 0.1

    def run(self, features: Iterable[Tensor], labels: Tensor) -> Iterator[Tensor]:
        """Labels of every frame but the first.

        What is kept are features and labels of `context` + 1 frames, however long the video.

        Args:
            features: (h, w, D) of each frame in turn, of unit length.
            labels: (h, w, C), the first frame's, for each patch how much of each label it shows.
        """
        features = iter(features)
        first = next(features), labels
        recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.context)
        for target in features:
            known = [first, *recent]
            labels = self.carry(target, torch.stack([f for f, _ in known]), torch.stack([m for _, m in known]))
            recent.append((target, labels))
            yield labels

    def carry(self, target: Tensor, sources: Tensor, labels: Tensor) -> Tensor:
        """Labels for one frame.

        A row of patches at a time: it can only have come from the rows near it, so that the similarities never take
        more memory than one row's, and those of rows too far away are not computed.

        Args:
            target: (h, w, D).  sources: (n, h, w, D).  labels: (n, h, w, C).

        Returns:
            (h, w, C)
        """
        height, width, dim = target.shape
        columns = torch.arange(width, device=target.device)
        too_far = (columns[:, None] - columns).abs() > self.radius  # (w, w)
        rows = []
        for y in range(height):
            near = slice(max(0, y - self.radius), y + self.radius + 1)
            cosines = target[y] @ sources[:, near].reshape(-1, dim).T  # (w, n * rows * w)
            cosines = cosines.view(width, -1, width).masked_fill_(too_far[:, None], -torch.inf).flatten(1)
            best, indices = cosines.topk(min(self.top_k, cosines.shape[1]))
            weights = (best / self.temperature).softmax(1)
            rows.append((weights[..., None] * labels[:, near].flatten(0, 2)[indices]).sum(1))
        return torch.stack(rows)


def to_labels(mask: Tensor, grid: tuple[int, int], num_labels: int) -> Tensor:
    """Numbers of objects (H, W) -> (h, w, C) float32: each patch shows the object at its centre, and it alone."""
    small = F.interpolate(mask[None, None].float(), grid, mode="nearest-exact")[0, 0]
    return F.one_hot(small.long(), num_labels).float()


def to_mask(labels: Tensor, frame_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Labels (h, w, C) -> numbers of objects, uint8 `size` (H, W).

    Enlarged bilinearly to `frame_size`, the pixels that the backbone saw, and each label stretched to [0, 1] over the
    frame, as DINO does: an object whose labels have grown weak all over still wins where it is strongest.
    """
    maps = F.interpolate(labels.permute(2, 0, 1)[None], frame_size, mode="bilinear", align_corners=False)[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = (maps - low) / (high - low).clamp_min(1e-12)
    mask = maps.argmax(0).to(torch.uint8)
    return F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]
