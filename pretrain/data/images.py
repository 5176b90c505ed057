"""Image sources by what is on disk: a folder, a list of files, a COCO annotation file, tar shards.

A source has `len()`, `load(index)` -> uint8 (H, W, channels), raising `BrokenImage`, `name(index)`, for messages, and
`facts(index)`, what the image's header says. Three channels are RGB.
"""

import bisect
import functools
import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pretrain.data.bands import check_bands
from pretrain.data.decode import BrokenImage, ImageFacts
from pretrain.data.folder import ENDINGS, ImageFiles, ImageFolder
from pretrain.data.index import Names
from pretrain.data.lists import PROBES, CocoJson, ImageList, spread
from pretrain.data.reading import MAX_PIXELS, Reading, ValueRange
from pretrain.data.tar_shards import TarShards
from pretrain.errors import UserError
from pretrain.ranges import Channels, Count

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # TarShards says what is wrong with the others


class JoinedSources:
    """Several sources, one after the other. `name(index)` tells them apart.

    Raises `UserError` where a source is given twice; where one is inside another, `open_source` does.
    """

    def __init__(self, roots: Sequence[str], sources: Sequence[ImageFiles | TarShards]):
        real = [os.path.realpath(root) for root in roots]
        if twice := [root for number, root in enumerate(roots) if real[number] in real[:number]]:
            raise UserError(f"{twice[0]} is given twice as a source of images; give it once")
        self.sources = list(sources)
        self.ends = list(itertools.accumulate(map(len, sources)))
        self.kinds = "; ".join(f"{root}: {s.kinds or len(s)}" for root, s in zip(roots, sources, strict=True))

    def __len__(self) -> int:
        return self.ends[-1]

    def name(self, index: int) -> str:
        source, index = self._find(index)
        folder, name = getattr(source, "root", None), source.name(index)
        return name if folder is None else os.path.join(folder, name)

    def path(self, index: int) -> Path | None:
        """The image's file; None of one in a tar shard."""
        source, own_index = self._find(index)
        return None if isinstance(source, TarShards) else source.path(own_index)

    def load(self, index: int, min_pixels: int | None = None) -> np.ndarray:
        """-> uint8 (H, W, channels); `min_pixels`: see `decode_image`. Raises `BrokenImage`."""
        source, own_index = self._find(index)
        try:
            return source.load(own_index, min_pixels)
        except BrokenImage as broken:
            raise BrokenImage(self.name(index), broken.reason) from broken

    def facts(self, index: int) -> ImageFacts | None:
        """What the header of an image says; None if it cannot be read."""
        source, own_index = self._find(index)
        return source.facts(own_index)

    def _find(self, index: int) -> tuple[ImageFiles | TarShards, int]:
        """The source that has the image, and the image's index there."""
        if not 0 <= index < len(self):
            raise IndexError(f"{index} of {len(self)} images")
        number = bisect.bisect_right(self.ends, index)
        return self.sources[number], index - (self.ends[number - 1] if number else 0)


def open_source(
    root: str | os.PathLike | list[str],
    images: str | os.PathLike | list[str | None] | None = None,
    endings: tuple[str, ...] = ENDINGS,
    index: str | os.PathLike | None = None,
    max_pixels: Count = MAX_PIXELS,
    channels: Channels = 3,
    value_range: ValueRange | None = None,
) -> ImageFolder | ImageList | CocoJson | TarShards | ImageFiles | JoinedSources:
    """The source that lies at `root`, in a config or on the command line (dataloader.train.source.root=...):

        datasets/imagenet/train                        a folder                     `ImageFolder`
        1percent.txt                                   a list of files              `ImageList`
        annotations/instances_train2017.json           a COCO annotation file       `CocoJson`
        shards/*.tar or 'shards/{000000..000146}.tar'  tar shards                   `TarShards`
        photos/*/2024 or photos/*.jpg                  all that fits the pattern    `JoinedSources`, or one of these
        [photos, 1percent.txt, coco.json]              several of all these         `JoinedSources`

    images: the folder that the paths in a .txt or .json are relative to; None is that file's own folder; for a list, a
    list of as many, null where there is none. endings: which
    files count as images, in folders and shards. index: a file to keep the list of a large source in; None is one in
    the user's cache folder (`pretrain.data.index`). max_pixels, channels, value_range: see `Reading`. What of its
    images' bands is left out is in the source's `bands`, for the log: of a few images, evenly spread.
    Raises `UserError` when it is none of these, or as the source that it is; where images have not the bands that are
    asked for, see `check_bands`, or need a package to be read.
    """
    reading = Reading(max_pixels, channels, value_range)
    source = _source(root, images, tuple(ending.lower() for ending in endings), index)
    _read_as(source, reading)
    source.bands = check_bands([(source.name(i), source.facts(i)) for i in spread(len(source), PROBES)], channels)
    return source


def _read_as(source, reading: Reading) -> None:
    source.reading = reading
    for part in getattr(source, "sources", ()):
        _read_as(part, reading)


def _source(root, images, endings: tuple[str, ...], index):
    if not isinstance(root, str | os.PathLike):
        return _joined(list(root), images, endings, index)
    path = os.fspath(root)
    if glob.has_magic(path) and not os.path.exists(path) and not path.lower().endswith(TARS):
        return _by_pattern(path, images, endings, index)
    is_folder, kind = os.path.isdir(path), path.lower()
    if images is not None and (is_folder or kind.endswith(TARS)):
        raise UserError(f"images={images} is for a .txt or .json file: leave it out, {path} holds its images itself")
    if is_folder:
        return ImageFolder(path, endings, index)
    if kind.endswith(TARS):
        return TarShards(path, endings, index)
    is_file = os.path.isfile(path)  # a pipe has no end
    if is_file and kind.endswith(".json"):
        return CocoJson(path, images, index)
    if is_file and kind.endswith(".txt"):
        return ImageList(path, images)
    problem = "is not a kind of image source" if os.path.exists(path) else "does not exist"
    raise UserError(
        f"{path} {problem}: give a folder of images, a .txt with one path per line, a COCO .json, or .tar shards"
    )


def _joined(roots: list, images, endings: tuple[str, ...], index) -> ImageFolder | JoinedSources:
    if not roots or not all(isinstance(root, str | os.PathLike) for root in roots):
        raise UserError(f"{roots} is not a list of image sources: give folders, files or patterns, at least one")
    _check_index(index, roots)
    folders = [images] * len(roots) if images is None or isinstance(images, str | os.PathLike) else list(images)
    if len(folders) != len(roots):
        raise UserError(
            f"{len(roots)} image sources and {len(folders)} folders in images: give one per source, or null"
        )
    sources = []
    for root, folder in zip(roots, folders, strict=True):
        kind = os.fspath(root).lower()
        if os.path.isfile(root) and kind.endswith(endings):
            sources.append(ImageFiles(Path(root).parent, Names.pack([Path(root).name])))
        else:
            sources.append(_source(root, folder if kind.endswith((".txt", ".json")) else None, endings, index))
    if len(sources) == 1:
        return sources[0]
    roots = list(map(os.fspath, roots))
    _refuse_overlap(roots, sources)
    return JoinedSources(roots, sources)


def _by_pattern(pattern: str, images, endings: tuple[str, ...], index):
    """All that fits: image files as one source, and each folder; lists and COCO files where there is no image file.

    A folder stands for all that is in it (`photos/**` fits all that, too).
    """
    found, folders = sorted(glob.glob(pattern, recursive=True)), set()
    for path in filter(os.path.isdir, found):
        if not _is_inside(path, folders):
            folders.add(os.path.normpath(path))
    loose = [path for path in found if os.path.isfile(path) and not _is_inside(path, folders)]
    files = [path for path in loose if path.lower().endswith(endings)]
    lists = [path for path in loose if path.lower().endswith((".txt", ".json"))] if not files else []
    others = sorted(folders) + lists
    if not files and not others:
        raise UserError(f"nothing fits {pattern}: give a pattern of folders, image files, .txt or COCO .json")
    if images is not None and not lists:
        raise UserError(f"images={images} is for .txt or .json files, and {pattern} fits none: leave it out")
    _check_index(index, others)
    sources = [ImageFiles(".", Names.pack(files))] if files else []
    sources += [_source(path, images if path in lists else None, endings, index) for path in others]
    return sources[0] if len(sources) == 1 else JoinedSources([pattern] * bool(files) + others, sources)


def _is_inside(path: str, folders: set[str]) -> bool:
    return any(str(parent) in folders for parent in (Path(path), *Path(path).parents))


def _check_index(index, roots: list) -> None:
    if index is not None and len(roots) > 1:
        raise UserError(f"index={index} keeps the list of one source, and {len(roots)} are given: leave it out")


def _refuse_overlap(roots: list[str], sources: list) -> None:
    """Raise UserError for an image or a folder that two of `roots` take, and that would count twice."""
    folders, files = {}, {}  # real paths: the root that takes them, and their path there
    for root, source in zip(roots, sources, strict=True):
        for part in getattr(source, "sources", [source]):
            found = folders if isinstance(part, ImageFolder) else files
            real = os.path.realpath if isinstance(part, ImageFolder) else _real
            for path in _own_paths(part):
                if (other := found.setdefault(real(path), (root, path))[0]) != root:
                    raise UserError(
                        f"{path} is given twice as a source of images, by {other} and by {root}; give it once"
                    )
    outer = functools.cache(lambda inner: [folders[f][0] for f in map(str, (inner, *inner.parents)) if f in folders])
    for real, (root, path) in (folders | files).items():
        if others := [other for other in outer(Path(real).parent) if other != root]:
            words = root if root == path else f"{path}, of {root},"
            raise UserError(f"{words} is in {others[0]}, all of whose images are taken: leave it out")


def refuse_among(output: Path, source) -> None:
    """Raise UserError for an output folder in a folder all of whose images are taken."""
    for part in getattr(source, "sources", [source]):
        if isinstance(part, ImageFolder) and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(part.root)):
            raise UserError(
                f"the output folder {output} lies in {part.root}, all of whose images are taken, and pictures of the "
                "run would be some of them: choose one elsewhere"
            )


def _own_paths(source) -> Iterable[str]:
    """The folder that a source takes whole, or the files that it was given; none of what a list or a shard names."""
    if isinstance(source, ImageFolder):
        return [os.fspath(source.root)]
    return (os.path.join(source.root, source.name(i)) for i in range(len(source))) if type(source) is ImageFiles else ()


def _real(path: str) -> str:
    """`os.path.realpath` of a file, quick for many of a folder."""
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(folder), name)


@functools.lru_cache(maxsize=1)  # files come folder by folder
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
