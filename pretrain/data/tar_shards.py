"""Images in tar shards (WebDataset's layout), read at random places without unpacking."""

import glob
import os
import re
import tarfile

import numpy as np

from pretrain.data.decode import MAX_BYTES, BrokenImage, ImageFacts, decode_image, read_facts
from pretrain.data.folder import ENDINGS
from pretrain.data.index import Index, cached_index, stamp
from pretrain.data.reading import AS_RGB
from pretrain.errors import UserError

RANGE = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")
MAX_NAME = 2**20  # bytes of a header that holds a long name or extended facts; real ones have hundreds
MAX_SIZE = 2**62  # bytes of a member


class Member(tarfile.TarInfo):
    """A member whose header does not make the reader take much memory, or go back in the file (CVE-2025-8194)."""

    def _proc_member(self, tar):
        names = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        holds_facts = self.type in (*names, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        most = MAX_NAME if holds_facts else MAX_SIZE
        if not 0 <= self.size <= most or len(str(tar.pax_headers)) > MAX_NAME:
            raise tarfile.ReadError("a size that no member has")
        member = super()._proc_member(tar)
        if not 0 <= member.size <= MAX_SIZE or tar.offset <= member.offset:  # facts may have changed it
            raise tarfile.ReadError("a size that no member has")
        return member


class TarShards:
    """Images in plain .tar files, in the order of the shards and, within them, of their members.

    WebDataset reads shards from end to end; here the order of images is drawn anew each epoch (`batches.py`), so the
    place of every image is looked up once and kept in an index, and each image is one seek and one read. What else
    belongs to a sample (`key.cls`, `key.json`) is left alone.

    pattern: `shards/train-{000000..000146}.tar`, `shards/*.tar`, or one file. endings: of the members that count as
    images, in any case; where a sample has several (`key.jpg`, `key.seg.png`) they say which to take. index: a file to
    keep the places in, see `pretrain.data.index`.
    Raises `UserError` when a shard is missing, compressed, damaged or cut off, or when none holds an image.
    """

    reading, kinds = AS_RGB, ""

    def __init__(self, pattern: str, endings: tuple[str, ...] = ENDINGS, index: str | os.PathLike | None = None):
        self.shards = expand(os.fspath(pattern))
        self.root = os.path.commonpath([os.path.dirname(shard) for shard in self.shards])
        endings = tuple(ending.lower() for ending in endings)
        made_from = ("tar", [os.path.realpath(shard) for shard in self.shards], endings)
        found = cached_index(made_from, lambda: _list_shards(self.shards, endings), index)
        if not len(found.names):
            raise UserError(
                f"no image found in {pattern} ({len(self.shards)} tar files): looked for members ending in "
                f"{', '.join(endings)}; tar files within a tar file must be unpacked from it first"
            )
        self._names, self._places = found.names, found.places
        if found.places.shape[1] != 3 or not np.isin(found.places[:, 0], np.arange(len(self.shards))).all():
            kept = index or "the cache folder"
            raise UserError(f"the list of images in {kept} is of other shards than {pattern}; delete it")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The shard's path below the folder of all, and the member's, such as `train-000001.tar/0042.jpg`."""
        return f"{os.path.relpath(self.shards[self._places[index, 0]], self.root or '.')}/{self._names[index]}"

    def load(self, index: int, min_pixels: int | None = None) -> np.ndarray:
        """-> uint8 (H, W, channels); `min_pixels`: see `decode_image`. Raises `BrokenImage`."""
        return decode_image(self._read(index), self.name(index), self.reading, min_pixels)

    def facts(self, index: int) -> ImageFacts | None:
        """What the header of an image says; None if it cannot be read."""
        try:
            return read_facts(self._read(index), self.reading)
        except BrokenImage:
            return None

    def _read(self, index: int) -> bytes:
        shard, offset, size = self._places[index].tolist()
        name = self.name(index)
        if size > MAX_BYTES:
            raise BrokenImage(name, "file too large")
        try:
            # Opened anew: a handle that is kept open would be shared, with its place, by all worker processes.
            with open(self.shards[shard], "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except FileNotFoundError as error:
            raise BrokenImage(name, "missing") from error
        except OSError as error:
            raise BrokenImage(name, "cannot be read") from error
        if len(data) < size:
            raise BrokenImage(name, "truncated")
        return data


def expand(pattern: str) -> list[str]:
    """Files of a pattern: `{000..146}` counts, leading zeros kept; `*`, `?` and `[...]` match, in sorted order.

    Raises `UserError` when a counted file is missing or nothing matches.
    """
    numbers = RANGE.search(pattern)
    if numbers:
        first, last = numbers.groups()
        before, after = pattern[: numbers.start()], pattern[numbers.end() :]
        files = []
        for number in range(int(first), int(last) + 1):  # the first that is missing ends it, however long the range
            files += expand(f"{before}{str(number).zfill(len(first))}{after}")
    else:
        files = sorted(glob.glob(pattern)) if glob.has_magic(pattern) and not os.path.exists(pattern) else [pattern]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing or not files:
        first = missing[0] if missing else pattern
        raise UserError(f"tar shard {first} does not exist: check the pattern and its range")
    return files


def _list_shards(shards: list[str], endings: tuple[str, ...]) -> Index:
    names, places, sources = [], [], {}
    for number, shard in enumerate(shards):
        try:
            sources[os.path.abspath(shard)] = stamp(shard)
            for name, offset, size in _list_shard(shard, endings):
                names.append(name)
                places.append((number, offset, size))
        except OSError as error:
            raise UserError(f"tar shard {shard} cannot be read ({error.strerror}): correct its permissions") from error
    return Index.of(names, sources, places)


def _list_shard(shard: str, endings: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """-> (name, offset, size) of every image; raises `UserError` for a shard that is not whole."""
    found, count = [], 0
    with open(shard, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=Member) as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # it would keep them all
                    count += 1
                    hidden = os.path.basename(member.name).startswith(".")
                    if member.isreg() and not member.issparse() and not hidden:
                        if member.name.lower().endswith(endings):
                            found.append((member.name, member.offset_data, member.size))
                file.seek(tar.offset)
                whole = not file.read(tarfile.BLOCKSIZE).strip(b"\0")  # tarfile takes a damaged header for the end
        except OSError:
            raise
        except Exception:  # a hostile header raises whatever the reader stumbles on, RecursionError too
            whole = False
    if not whole and not count:
        raise UserError(f"{shard} is not a plain tar file (compressed, perhaps): unpack it to .tar, or copy it again")
    if not whole:
        raise UserError(f"{shard} is cut off or damaged after {count} members: copy it again, or leave it out")
    return found
