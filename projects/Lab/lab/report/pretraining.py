"""What the report shows of a pretraining run."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pretrain.models.vit import VisionTransformer


@dataclass(frozen=True)
class Pretraining:
    """`untrained` and `trained`: the trunk as it started, and the teacher's now, after `steps` steps. `batch`: the
    batch of the first step (see `pretrain.data.batches`). `images`: its first images, uint8 RGB (H, W, 3)."""

    untrained: VisionTransformer
    trained: VisionTransformer
    steps: int
    batch: dict[str, Tensor]
    images: list[np.ndarray]

    def crops_of(self, image: int, kind: str) -> dict[str, np.ndarray]:
        """The "global" or "local" crops of an image of the batch: `crops` uint8 (n, 3, S, S), `image_boxes` and
        `boxes` (n, 4). Empty arrays where there are none."""
        step = len(self.batch["index"])
        names = {"crops": f"{kind}_crops", "image_boxes": f"{kind}_image_boxes", "boxes": f"{kind}_boxes"}
        if names["crops"] not in self.batch:
            return {
                "crops": np.zeros((0, 3, 1, 1), np.uint8),
                "image_boxes": np.zeros((0, 4)),
                "boxes": np.zeros((0, 4)),
            }
        return {part: self.batch[name][image::step].numpy() for part, name in names.items()}
