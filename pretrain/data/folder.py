"""Images in files below one folder: `ImageFolder`, which finds them itself."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pretrain.data.decode import ImageFacts, decode_image, extra_endings, read_facts
from pretrain.data.index import Index, Names, cached_index, stamp
from pretrain.data.reading import AS_RGB
from pretrain.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
ENDINGS += extra_endings()


class ImageFiles:
    """Image files with paths relative to one folder, or absolute. Base class of all sources except tar shards.

    reading: how each image is read.
    kinds: for the log, how many files of which ending were found and left out; "" if that was not counted.
    """

    reading = AS_RGB

    def __init__(self, root: str | os.PathLike, names: Names, kinds: str = ""):
        self.root, self._names, self.kinds = Path(root), names, kinds

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The file's path relative to `root`."""
        return self._names[index]

    def path(self, index: int) -> Path:
        """The image's file."""
        return self.root / self.name(index)

    def load(self, index: int, min_pixels: int | None = None) -> np.ndarray:
        """-> uint8 (H, W, channels); `min_pixels`: see `decode_image`. Raises `BrokenImage`."""
        name = self.name(index)
        return decode_image(self.root / name, name, self.reading, min_pixels)

    def facts(self, index: int) -> ImageFacts | None:
        """What the header of an image says; None if it cannot be read."""
        return read_facts(self.root / self.name(index), self.reading)


class ImageFolder(ImageFiles):
    """All images below `root`, at any depth, sorted by their path (by code point, so alike on every machine).

    ImageNet as it lies on disk (`train/n01440764/*.JPEG`) is one. Links to folders are followed, each real folder
    once; hidden files and folders are left out.

    endings: of the files that count as images, in any case. index: a file to keep the list in, see
    `pretrain.data.index`.
    Raises `UserError` when the folder is missing, cannot be read, or holds no file with one of `endings`.
    """

    def __init__(
        self, root: str | os.PathLike, endings: tuple[str, ...] = ENDINGS, index: str | os.PathLike | None = None
    ):
        if not os.path.isdir(root):
            raise UserError(f"image folder {root} does not exist or is not a folder: give a folder that holds images")
        endings = tuple(ending.lower() for ending in endings)
        found = cached_index(
            ("folder", os.path.realpath(root), endings), lambda: list_folder(os.path.abspath(root), endings), index
        )
        if not len(found.names):
            raise UserError(
                f"no image found under {root}: looked, at any depth, for files ending in {', '.join(endings)}"
                + (f"; {found.kinds}" if found.kinds else "")
                + (f"; for its tar shards, give {root}/*.tar" if any(Path(root).glob("*.tar")) else "")
            )
        super().__init__(root, found.names, found.kinds)


def list_folder(root: str, endings: tuple[str, ...], leave_out: Callable[[str], bool] = lambda _: False) -> Index:
    """List the files for `ImageFolder`; names are relative to `root`, with "/" as separator.

    leave_out: returns whether to skip a folder, given its path.
    Raises `UserError` if a folder cannot be read.
    """
    top = os.path.join(root, "")
    names, folders = [], {}
    taken_kinds, other_kinds = Counter(), Counter()
    try:
        for folder, files in _walk(top, leave_out):
            folders[folder] = stamp(folder)
            inside = os.path.join(folder[len(top) :], "") if folder != top else ""
            for file in files:
                taken = file.lower().endswith(endings)
                names += [inside + file] * taken
                (taken_kinds if taken else other_kinds)[os.path.splitext(file.lower())[1]] += 1
    except OSError as error:
        raise UserError(
            f"folder {error.filename} cannot be read ({error.strerror}): correct its permissions"
        ) from error
    index = Index.of(sorted(names), folders)
    left_out = [f"left out by their ending: {_listed(other_kinds)}"] if other_kinds else []
    index.kinds = "; ".join([_listed(taken_kinds)] * bool(taken_kinds) + left_out)
    return index


def _walk(root: str, leave_out: Callable[[str], bool]) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `root` on with its files, nothing hidden; links are followed, to each real folder once.

    Raises OSError.
    """
    seen = {os.path.realpath(root)}

    def fail(error: OSError):
        raise error

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=fail):
        found, subfolders[:] = sorted(subfolders), []
        for name in found:
            path = os.path.join(folder, name)
            real = os.path.realpath(path)
            if not name.startswith(".") and real not in seen and not leave_out(path):
                seen.add(real)
                subfolders.append(name)
        yield folder, [file for file in files if not file.startswith(".")]


def _listed(kinds: Counter) -> str:
    shown = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in kinds.most_common(8))
    return shown + ", ..." * (len(kinds) > 8)
