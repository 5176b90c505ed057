"""Image lists of large sources, cached in a file and made again when the source has changed.

A cached list is valid while everything that was read to make it (every folder below an `ImageFolder`, every tar shard,
a COCO file) keeps its modification time and size. Adding, removing or renaming a file changes its folder's time;
changing an image's content changes no list. If you set a folder's time back by hand (`touch -d`), delete the index too.
"""

import hashlib
import json
import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.errors import UserError
from pretrain.files import check_stored, replacing

VERSION = 1
WORTH_KEEPING = 10_000  # names; fewer are listed in a moment
COARSEST_CLOCK = 2_000_000_000  # ns: FAT's; others date changes to 1 s or to some ms

logger = logging.getLogger(__name__)


class Names(Sequence):
    """Many strings in two arrays: `text`, uint8, all of them end to end, and `ends`, int64, where each one ends.

    A list of a million strings would be copied page by page into every worker process, because reading a Python
    object writes its reference count; and it would take ten times as long to read from a file.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray):
        self.text, self.ends = text, ends

    @classmethod
    def pack(cls, names: Iterable[str]) -> "Names":
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"{index} of {len(self)} names")
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.text[start : self.ends[index]].tobytes())


@dataclass
class Index:
    """The images of a source.

    names: of the images, in order. places: int64 (len(names), k), positions in shards; k = 0 for plain files.
    sources: absolute paths of everything that was read to make the list. stamps: int64 (len(sources), 2), their
    modification times in ns and sizes in bytes at that time.
    """

    names: Names
    places: np.ndarray
    sources: Names
    stamps: np.ndarray
    kinds: str = ""  # see `ImageFiles`; not kept

    @classmethod
    def of(cls, names: Iterable[str], sources: dict[str, tuple[int, int]], places: Sequence = ()) -> "Index":
        """`sources`: path -> `stamp`."""
        names = Names.pack(names)
        places = np.array(places, dtype=np.int64).reshape(len(names), -1 if len(places) else 0)
        return cls(names, places, Names.pack(sources), np.array(list(sources.values()), dtype=np.int64).reshape(-1, 2))

    def check(self) -> None:
        """Raise ValueError where the arrays do not belong together."""
        for names, array, width in ((self.names, self.places, None), (self.sources, self.stamps, 2)):
            kinds = (names.text.dtype, names.ends.dtype, array.dtype)
            whole = names.text.ndim == names.ends.ndim == 1 and array.ndim == 2 and len(array) == len(names)
            if kinds != (np.uint8, np.int64, np.int64) or not whole or width not in (None, array.shape[-1]):
                raise ValueError("arrays of other kinds or shapes")
            if (np.diff(names.ends, prepend=0, append=len(names.text)) < 0).any():
                raise ValueError("names that end before they begin")

    def is_current(self) -> bool:
        try:
            return all(stamp(path) == tuple(then) for path, then in zip(self.sources, self.stamps, strict=True))
        except (OSError, ValueError):  # ValueError: a null character in a path
            return False


def stamp(path: str | os.PathLike) -> tuple[int, int]:
    """-> (modification time in ns, size in bytes), of what a link points to. Raises OSError."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def files_digest(files: Iterable[tuple[str, str | os.PathLike]]) -> str:
    """Hash of files (name, path): of names, dates and sizes. One that cannot be read has only its name."""
    digest = hashlib.sha256()
    for name, path in files:
        try:
            known = stamp(path)
        except (OSError, ValueError):  # ValueError: a null character in the path
            known = None
        digest.update(f"{name}\0{known}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def cached_index(made_from: Sequence, make: Callable[[], Index], path: str | os.PathLike | None = None) -> Index:
    """Read the index from `path` if it is there and current; otherwise make it with `make` and save it.

    made_from: plain values that identify the index. path: None is a file in the user's cache folder
    ($XDG_CACHE_HOME/cropfield or ~/.cache/cropfield), used for 10,000 names or more; if it cannot be written, a warning
    is logged. Raises `UserError` if a given `path` contains something else or cannot be written.
    """
    key = json.dumps([VERSION, *made_from])
    file = _default_file(key) if path is None else Path(path)
    index = _read(file, key, given=path is not None) if file and file.exists() else None
    if index is not None and index.is_current():
        return index
    started = time.time_ns()
    index = make()
    if path is not None and os.path.realpath(file.parent) in map(os.path.realpath, index.sources):
        logger.warning(
            f"{file} would lie among the images, and keeping it there changes the folder's date, so it is not kept and "
            "the images are listed each time; give an index outside of their folders"
        )
        return index
    # What was changed just now may change again under the same date.
    settled = len(index.stamps) == 0 or index.stamps[:, 0].max() < started - COARSEST_CLOCK
    if file and settled and (path is not None or len(index.names) >= WORTH_KEEPING):
        _keep(index, key, file, must=path is not None)
    return index


def _default_file(key: str) -> Path | None:
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return None
    return cache / "cropfield" / f"images-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"


def _read(file: Path, key: str, given: bool) -> Index | None:
    """The index in `file`; None if it is another one, or damaged and not `given` by the user, whose file stays."""
    try:
        with zipfile.ZipFile(file) as archive:
            check_stored(archive)
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        if str(arrays["key"]) != key:
            return None
        found = Index(
            Names(arrays["names"], arrays["name_ends"]),
            arrays["places"],
            Names(arrays["sources"], arrays["source_ends"]),
            arrays["stamps"],
        )
        found.check()
        return found
    except Exception as error:  # damaged bytes raise whatever the readers stumble on
        if given:
            raise UserError(
                f"{file} is not an index of images: give another file as index, or delete this one"
            ) from error
        return None


def _keep(index: Index, key: str, file: Path, must: bool) -> None:
    arrays = {"names": index.names.text, "name_ends": index.names.ends, "places": index.places}
    arrays |= {"sources": index.sources.text, "source_ends": index.sources.ends, "stamps": index.stamps}
    try:
        with replacing(file) as draft, open(draft, "wb") as opened:
            np.savez(opened, key=np.array(key), **arrays)
        logger.info("the list of %s images is kept in %s", f"{len(index.names):,}", file)
    except UserError as error:
        if must:
            raise
        logger.warning("the list of images is not kept and will be made again next time: %s", error)
