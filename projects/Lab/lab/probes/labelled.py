"""Images with one class label each, from their folders or from a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pretrain.data.folder import ImageFiles, ImageFolder
from pretrain.data.index import Names
from pretrain.errors import UserError


@dataclass
class LabelledImages:
    """A source of images and their classes: `labels` (len,) int64 are indices into `classes`."""

    source: ImageFiles
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """The file's path relative to the source's root."""
        return self.source.name(index)

    def path(self, index: int) -> Path:
        return Path(self.source.root) / self.source.name(index)

    def load(self, index: int) -> np.ndarray:
        """Load an image -> uint8 RGB (H, W, 3). Raises `BrokenImage`."""
        return self.source.load(index)


def labelled_folder(root: str | Path, classes: list[str] | None = None, nested: bool = False) -> LabelledImages:
    """Images of a folder whose sub-folders are the classes, see `label_by_folder`; UserError also if there are none."""
    return label_by_folder(ImageFolder(root), classes, nested)


def label_by_folder(source: ImageFiles, classes: list[str] | None = None, nested: bool = False) -> LabelledImages:
    """Label images by their folders, sorted by name.

    Args:
        classes: the classes of another folder to use; None: this folder's own.
        nested: the class is the whole path of an image's folder ("a/abbey") instead of its first part ("a").

    Raises:
        UserError: an image is not in a sub-folder, there are fewer than two classes, or one is missing in `classes`.
    """
    names = [source.name(index) for index in range(len(source))]
    if loose := [name for name in names if "/" not in name]:
        raise UserError(
            f"{source.root}: {loose[0]} is not in a sub-folder; give a folder with one sub-folder per class"
        )
    folders = [name.rpartition("/")[0] if nested else name.partition("/")[0] for name in names]
    classes = sorted(set(folders)) if classes is None else classes
    if len(classes) < 2:
        raise UserError(f"{source.root}: only one class, {classes[0]}; give two sub-folders or more, one per class")
    return LabelledImages(source, class_indices(folders, classes, source.root), classes)


def listed_files(root: Path, names: list[str], listing: Path) -> ImageFiles:
    """Images listed in the file `listing`, relative to `root`. Raises UserError if none is listed or none exists."""
    samples = {names[index] for index in (0, len(names) // 2, -1)} if names else ()
    if not any((root / name).is_file() for name in samples):
        example = f", such as {names[0]}" if names else ""
        raise UserError(f"of the {len(names):,} images that {listing} lists, none is below {root}{example}; move them")
    return ImageFiles(root, Names.pack(names))


def class_indices(names: list[str], classes: list[str], listing: str | Path) -> Tensor:
    """Indices (n,) int64 in `classes` of the classes `names`. Raises UserError, naming `listing`, for an unknown
    one.
    """
    if strange := sorted(set(names) - set(classes)):
        raise UserError(f"{listing}: class {strange[0]} is not among those of the training images; name them alike")
    indices = {name: index for index, name in enumerate(classes)}
    return torch.tensor([indices[name] for name in names])
