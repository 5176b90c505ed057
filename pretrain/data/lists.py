"""Images that a file lists: `ImageList` reads text, `CocoJson` a COCO annotation file."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.data.coco import read_image_names
from pretrain.data.folder import ImageFiles
from pretrain.data.index import Index, Names, cached_index, stamp
from pretrain.errors import UserError

PROBES = 32  # listed files that are looked for at once; all absent means the wrong folder
IMAGENET_FILE = re.compile(r"(n\d{8})_\d+\.JPEG")


class ImageList(ImageFiles):
    """Images listed in a text file: one path per line, absolute, or relative to `images` (None: the file's own folder).

    The order is the file's; blank lines are skipped, and blanks around a path. ImageNet's published subsets (SimCLR's
    `1percent.txt`) list bare file names: those are found in their class's folder, `n01440764_10026.JPEG` in
    `images/n01440764`. A listed file that is absent is a `BrokenImage` when its turn comes.
    Raises `UserError` when the list is missing, is not UTF-8 text, is empty, or when nothing that it lists is there.
    """

    def __init__(self, file: str | os.PathLike, images: str | os.PathLike | None = None):
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").split("\n")  # a name may hold what splitlines splits at
        except OSError as error:
            raise UserError(
                f"image list {file} cannot be read ({error.strerror}): give a text file of paths"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"image list {file} is not UTF-8 text: give a text file with one path per line") from error
        names = [line.strip() for line in lines if line.strip()]
        root = Path(file).parent if images is None else Path(images)
        if not names:
            raise UserError(f"image list {file} is empty: give one image path per line, relative to {root}")
        if not _any_exists(root, names):
            in_classes = [IMAGENET_FILE.sub(r"\1/\g<0>", name) if "/" not in name else name for name in names]
            names = in_classes if _any_exists(root, in_classes) else names
        _check_folder(root, names, file)
        super().__init__(root, Names.pack(names))


class CocoJson(ImageFiles):
    """The images of a COCO annotation file, labels unread: every `images[].file_name`, below the folder `images`.

    images: None is the annotation file's own folder. index: a file to keep the list in, see `pretrain.data.index`;
    COCO's own annotation files take many seconds to read.
    Raises `UserError` when the file is missing, is no COCO file, lists no image, or when nothing listed is there.
    """

    def __init__(
        self,
        file: str | os.PathLike,
        images: str | os.PathLike | None = None,
        index: str | os.PathLike | None = None,
    ):
        names = cached_index(("coco", os.path.realpath(file)), lambda: _index(file), index).names
        root = Path(file).parent if images is None else Path(images)
        _check_folder(root, names, file)
        super().__init__(root, names)


def _index(file: str | os.PathLike) -> Index:
    names = read_image_names(file)  # first: it says why a file cannot be read
    return Index.of(names, {os.path.abspath(file): stamp(file)})


def _check_folder(root: Path, names: Sequence[str], file: str | os.PathLike) -> None:
    if not _any_exists(root, names):
        raise UserError(
            f"of the {len(names):,} images that {file} lists, none that was looked for is below {root} (such as "
            f"{names[0][:100]}): say with images which folder their paths are relative to"
        )


def _any_exists(root: Path, names: Sequence[str]) -> bool:
    """Looks for a few that are evenly spread through the list; a null character in a name means absent."""
    return any(os.path.exists(root / names[place]) for place in spread(len(names), PROBES))


def spread(count: int, most: int) -> np.ndarray:
    """Up to `most` of `count` indices, evenly spread: int (n,), ascending, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))
