"""Images with a class each, whatever says which: the folder that they lie in, or a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pretrain.data.folder import ImageFiles
from pretrain.data.images import ImageFolder
from pretrain.data.index import Names
from pretrain.errors import UserError


@dataclass
class LabelledImages:
    """A source of images and the class of each: `labels` (len,) int64 are places in `classes`."""

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
        """-> uint8 RGB (H, W, 3). Raises `BrokenImage`."""
        return self.source.load(index)


def labelled_folder(root: str | Path, classes: list[str] | None = None, nested: bool = False) -> LabelledImages:
    """Images of a folder whose sub-folders are the classes, numbered by name.

    Args:
        classes: the classes to number by, those of another folder; None takes this folder's own.
        nested: the whole path of an image's folder is its class ("a/abbey"), and not the path's first part ("a").

    Raises:
        UserError: no images, one that lies in no sub-folder, fewer than two classes, or one that `classes` lacks.
    """
    return label_by_folder(ImageFolder(root), classes, nested)


def label_by_folder(source: ImageFiles, classes: list[str] | None = None, nested: bool = False) -> LabelledImages:
    """As `labelled_folder`, for images that something else has listed."""
    names = [source.name(index) for index in range(len(source))]
    loose = next((name for name in names if "/" not in name), None)
    if loose is not None:
        raise UserError(f"{source.root}: {loose} lies in no sub-folder; give a folder with a sub-folder a class")
    folders = [name.rpartition("/")[0] if nested else name.partition("/")[0] for name in names]
    found = sorted(set(folders))
    classes = found if classes is None else classes
    if len(classes) < 2:
        raise UserError(f"{source.root}: only one class, {found[0]}; give two sub-folders or more, one a class")
    return LabelledImages(source, number(folders, classes, source.root), classes)


def listed_files(root: Path, names: list[str], where: Path) -> ImageFiles:
    """Images that the file `where` lists, relative to `root`. Raises UserError if it lists none or none is there."""
    probes = {names[place] for place in (0, len(names) // 2, -1)} if names else ()
    if not any((root / name).is_file() for name in probes):
        example = f", such as {names[0]}" if names else ""
        raise UserError(f"of the {len(names):,} images that {where} lists, none is below {root}{example}; move them")
    return ImageFiles(root, Names.pack(names))


def number(names: list[str], classes: list[str], where: str | Path) -> Tensor:
    """Places (n,) int64 in `classes` of the classes `names`. Raises UserError, naming `where`, on a strange one."""
    places = {name: place for place, name in enumerate(classes)}
    strange = sorted(set(names) - set(classes))
    if strange:
        raise UserError(f"{where}: class {strange[0]} is not among those of the training images; name them alike")
    return torch.tensor([places[name] for name in names])
