"""The obvious multi-crop: Pillow images through torchvision's transforms, one crop after the other.

What DINOv2's recipe says, in the words of torchvision; the reference of the tests for each operation's statistics.
"""

from collections.abc import Callable

import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.data.augment import BLUR_PROBS


def plain_view(
    size: int, scale: tuple[float, float], blur_prob: float, solarize_prob: float = 0.0
) -> Callable[[Image.Image], torch.Tensor]:
    """Pillow image -> a random crop (3, size, size) float32, normalised."""
    return transforms.Compose([
        transforms.RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([transforms.GaussianBlur(9, sigma=(0.1, 2.0))], p=blur_prob),
        transforms.RandomSolarize(threshold=128, p=solarize_prob),
        transforms.ToTensor(),
        transforms.Normalize([m / 255 for m in IMAGE_MEAN], [s / 255 for s in IMAGE_STD]),
    ])  # fmt: skip


class PlainMultiCrop:
    """2 global crops of 224 pixels and 8 local ones of 96, of a file; `blur` as in `dinov2_photometric`."""

    def __init__(self, blur: str = "effect"):
        first, further, local = BLUR_PROBS[blur]
        self.views = [
            plain_view(224, (0.32, 1.0), first),
            plain_view(224, (0.32, 1.0), further, solarize_prob=0.2),
        ] + [plain_view(96, (0.05, 0.32), local)] * 8

    def __call__(self, path: str) -> list[torch.Tensor]:
        """-> ten float32 tensors, the global crops first."""
        image = Image.open(path).convert("RGB")
        return [view(image) for view in self.views]
