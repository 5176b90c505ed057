"""Propagate labels from frame to frame by patch similarity, without training.

The protocol of DINO (Caron et al. 2021, Sec. 4.2.2, after Jabri et al. 2020), as in StoP (App. C.2): a patch gets the
labels of the most similar patches in the first frame and in the preceding frames, within a neighbourhood of its
position.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Propagation:
    """Parameters of the propagation; the defaults are DINO's.

    Args:
        context: number of preceding frames used, besides the first.
        radius: maximum displacement along each axis, in patches.
        top_k: number of patches whose labels are mixed, over all frames.
        temperature: of the softmax over their cosines.
    """

    context: int = 7
    radius: int = 12
    top_k: int = 5
    temperature: float = 0.1

    def run(self, features: Iterable[Tensor], labels: Tensor) -> Iterator[Tensor]:
        """Yield the labels of every frame but the first.

        Memory is bounded by features and labels of `context` + 1 frames.

        Args:
            features: (h, w, D) of each frame in turn, of unit length.
            labels: (h, w, C) of the first frame: the weight of each label in each patch.
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
        """Labels of one frame.

        Computed row by row against the rows within `radius`, which bounds memory to the similarities of one row and
        skips rows too far away.

        Args:
            target: (h, w, D).
            sources: (n, h, w, D).
            labels: (n, h, w, C).

        Returns:
            (h, w, C).
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
    """Object numbers (H, W) -> (h, w, C) float32: one-hot labels of the object at each patch's centre."""
    small = F.interpolate(mask[None, None].float(), grid, mode="nearest-exact")[0, 0]
    return F.one_hot(small.long(), num_labels).float()


def to_mask(labels: Tensor, frame_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Labels (h, w, C) -> object numbers, uint8 `size` (H, W).

    Labels are upsampled bilinearly to `frame_size`, the backbone's input, and each is rescaled to [0, 1] over the
    frame, as in DINO: an object whose labels have become weak everywhere still wins where it is strongest.
    """
    maps = F.interpolate(labels.permute(2, 0, 1)[None], frame_size, mode="bilinear", align_corners=False)[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = (maps - low) / (high - low).clamp_min(1e-12)
    mask = maps.argmax(0).to(torch.uint8)
    return F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]
