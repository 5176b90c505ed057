"""Tar shards: headers with hostile fields and right checksums, pax records, long names, sparse files, damaged bytes.

Images that are accepted are those that were put in, unless their bytes were hit.
"""

import io
import tarfile

import numpy as np
from harness import Wrong
from mutations import mutate_bytes, pick
from PIL import Image

from pretrain.data.decode import BrokenImage
from pretrain.data.images import open_source

BLOCK = 512
FIELDS = {"name": (0, 100), "mode": (100, 8), "size": (124, 12), "time": (136, 12), "type": (156, 1)}
FIELDS |= {"link": (157, 100), "magic": (257, 8), "user": (265, 32), "prefix": (345, 155), "sparse": (386, 100)}
NUMBERS = (
    b"77777777777\0", b"-0000000001\0", b"\x80" + b"\0" * 10 + b"\xff", b"\xff" * 12, b"\0" * 12, b"abc",
    b"00000000001",
)  # fmt: skip
TYPES = b"0\0123456 7gxLKSDMVX\xff"
RECORDS = (
    b"size=99999999999999999999999999", b"size=-1", b"size=abc", b"path=", b"path=../../x.jpg", b"path=a\0b.jpg",
    b"path=" + b"n" * 300 + b".jpg", b"path=\xff\xfe.jpg", b"GNU.sparse.map=1,b,c", b"GNU.sparse.size=x", b"mtime=nan",
    b"GNU.sparse.major=1\n", b"GNU.sparse.realsize=9", b"GNU.sparse.numblocks=1e9", b"hdrcharset=BINARY", b"=", b"",
)  # fmt: skip
PATTERNS = (
    "{0..2}", "{2..0}", "{0..9999999999}", "{000..000}", "{0..99999999999999999999999}", "{0..1}{0..1}", "[", "*",
    "**", "?", "{a..b}", "{0..}", "\0",
)  # fmt: skip


def jpegs() -> list[bytes]:
    found = []
    for number in range(4):
        pixels = np.full((8, 8, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(file := io.BytesIO(), format="PNG")
        found.append(file.getvalue())
    return found


def good(rng) -> bytes:
    form, file = pick(rng, (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)), io.BytesIO()
    long = "n" * int(rng.integers(1, 260 if form != tarfile.USTAR_FORMAT else 60))
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for number, data in enumerate(jpegs()):
            member = tarfile.TarInfo(f"{long}{number}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def header(block: bytes) -> bytes:
    """With its checksum."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(rng) -> bytes:
    text = pick(rng, RECORDS)
    length = len(text) + 3 + len(str(len(text)))
    data = b"%d %s\n" % (pick(rng, (length, length, length, 0, 10**20, -5)), text)
    block = bytearray(BLOCK)
    block[:3], block[124:136], block[156:157], block[257:265] = (
        b"pax",
        b"%011o\0" % len(data),
        pick(rng, (b"x", b"g")),
        b"ustar\x0000",
    )
    return header(bytes(block)) + data + bytes(-len(data) % BLOCK)


def hostile(data: bytes, rng) -> bytes:
    blocks = [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)]
    for _ in range(int(rng.integers(1, 4))):
        heads = [i for i, block in enumerate(blocks) if block[257:262] == b"ustar"] or [0]
        place = pick(rng, heads)
        match int(rng.integers(5)):
            case 0 | 1:
                start, length = FIELDS[name := pick(rng, list(FIELDS))]
                value = pick(rng, NUMBERS) if name in ("size", "mode", "time", "sparse") else rng.bytes(length)
                value = bytes([pick(rng, TYPES)]) if name == "type" else value
                block = bytearray(blocks[place])
                block[start : start + length] = value[:length].ljust(length, b"\0")
                blocks[place] = header(bytes(block))
            case 2:
                blocks[place:place] = [pax(rng)] * pick(rng, (1, 1, 1, 3000))
            case 3:
                long = bytearray(blocks[place])
                long[124:136], long[156:157] = b"%011o\0" % 3, pick(rng, (b"L", b"K"))
                blocks[place:place] = [header(bytes(long)), b"ab".ljust(BLOCK, b"\0")] * pick(rng, (1, 3000))
            case 4:
                blocks[place:place] = blocks[place : place + int(rng.integers(1, 4))] * pick(rng, (1, 2, 500))
    return b"".join(blocks)


def attempt(rng, folder):
    data, chance, whole = good(rng), rng.random(), False
    if chance < 0.6:
        data = hostile(data, rng)
    elif chance < 0.9:
        data = mutate_bytes(data, rng)
    else:
        whole = True
    path = folder / "s0.tar"
    path.write_bytes(data)
    pattern = str(path) if rng.random() < 0.9 else str(folder / f"s{pick(rng, PATTERNS)}.tar")
    source = open_source(pattern, index=str(folder / "index.npz") if rng.random() < 0.3 else None)
    known = {int(number) * 60 for number in range(4)}
    for index in range(min(len(source), 50)):
        name = source.name(index)
        try:
            image = source.load(index)
        except BrokenImage as error:
            if whole:
                raise Wrong(f"{error}") from error
            continue
        if (chance < 0.6 or whole) and (
            image.shape != (8, 8, 3) or image.min() != image.max() or image.max() not in known
        ):
            raise Wrong(f"{name} has other pixels than were put in")
    if whole and pattern == str(path) and len(source) != 4:
        raise Wrong(f"{len(source)} of 4 images")
