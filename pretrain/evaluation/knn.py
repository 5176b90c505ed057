"""Weighted k-nearest-neighbour classification: what a trunk's features know of labels, without training anything."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.data.images import BrokenImage, ImageFolder
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer

IGNORED = -1  # the label of an image that cannot be read


class LabelledFolder(ImageFolder):
    """Images of a folder whose sub-folders are the classes; `labels` (len,) int64 numbers `classes`, sorted by name.

    Args:
        classes: the classes to number by, those of another folder; None takes this folder's own.

    Raises:
        UserError: no images, one that lies in no sub-folder, fewer than two classes, or one that `classes` lacks.
    """

    def __init__(self, root: str, classes: list[str] | None = None):
        super().__init__(root)
        names = [self.name(index).partition("/") for index in range(len(self))]
        loose = next((folder for folder, inside, _ in names if not inside), None)
        if loose is not None:
            raise UserError(f"{root}: {loose} lies in no sub-folder; k-NN takes a sub-folder a class")
        found = sorted({folder for folder, _, _ in names})
        self.classes = found if classes is None else classes
        if len(self.classes) < 2:
            raise UserError(f"{root}: only one class, {found[0]}; k-NN takes two sub-folders or more, one a class")
        strange = sorted(set(found) - set(self.classes))
        if strange:
            raise UserError(f"{root}: class {strange[0]} is not among those of the training folder; name them alike")
        number = {name: index for index, name in enumerate(self.classes)}
        self.labels = torch.tensor([number[folder] for folder, _, _ in names])


def knn_accuracy(
    train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Share of val features whose label the vote of their k nearest train features names (DINO's protocol).

    A neighbour votes with exp(cosine / temperature): Wu et al. (2018), Sec. 3.4, with the k and temperature of DINO.

    Args:
        train, val: (n, D), (m, D); normalised here.  train_labels, val_labels: (n,), (m,) int64, 0 to classes - 1.
        k: neighbours; all of them where there are fewer.
    """
    train, val = F.normalize(train.float(), dim=-1), F.normalize(val.float(), dim=-1)
    num_classes = int(max(train_labels.max(), val_labels.max())) + 1
    correct = 0
    for features, labels in zip(val.split(1024), val_labels.split(1024), strict=True):
        cosines, nearest = (features @ train.T).topk(min(k, len(train)))
        votes = features.new_zeros(len(features), num_classes)
        votes.scatter_add_(1, train_labels[nearest], (cosines / temperature).exp())
        correct += (votes.argmax(1) == labels).sum().item()
    return correct / len(val_labels)


@torch.no_grad()
def extract_features(
    trunk: VisionTransformer,
    folder: LabelledFolder,
    indices: Sequence[int],
    image_size: int = 224,
    batch_size: int = 64,
    num_workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """Class tokens, or mean patch tokens in a trunk without, of some images -> (n, D) float32 and labels (n,), CPU.

    Images are resized so that the shorter side is 8/7 of `image_size` and cut to its central square, as DINO does (256
    and 224). Broken images are left out. The trunk should be in eval mode; it is used where it is.

    Args:
        image_size: pixels a side, a multiple of the patch.
    """
    loader = DataLoader(
        _Centres(folder, indices, image_size),
        batch_size,
        num_workers=num_workers,
        generator=torch.Generator(),  # else each start would shift torch's global generator
    )
    device = trunk.patch_embed.proj.weight.device
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    features, labels = [torch.zeros(0, trunk.embed_dim)], [torch.zeros(0, dtype=torch.int64)]
    for images, numbers in loader:
        images, numbers = images[numbers != IGNORED], numbers[numbers != IGNORED]
        cls, patches = trunk(((images.float() - mean) / std).to(device))
        features.append((patches.mean(1) if cls is None else cls).float().cpu())
        labels.append(numbers)
    return torch.cat(features), torch.cat(labels)


class _Centres(Dataset):
    """Item i -> the central square of image indices[i], uint8 (3, S, S), and its label."""

    def __init__(self, folder: LabelledFolder, indices: Sequence[int], image_size: int):
        self.folder, self.indices, self.image_size = folder, indices, image_size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        index = self.indices[item]
        try:
            square = central_square(self.folder.load(index), self.image_size)
        except BrokenImage:
            return torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8), IGNORED
        return torch.from_numpy(square).permute(2, 0, 1), int(self.folder.labels[index])


def central_square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> (size, size, 3): the middle of the image, its shorter side resized to 8/7 of `size`."""
    scale = size * 8 / 7 / min(image.shape[:2])
    width, height = (max(size, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    return resized[top : top + size, left : left + size]
