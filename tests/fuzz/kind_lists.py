"""Lists: the kept index of a folder, text files of names, DAVIS's lists of videos. Names come out right."""

import contextlib
import io
import os
import shutil

import numpy as np
from harness import Wrong
from mutations import mutate_bytes, mutate_tree, pick
from PIL import Image

from lab.video.davis import find_videos, read_frame, read_mask
from pretrain.data.decode import BrokenImage
from pretrain.data.folder import ImageFolder
from pretrain.data.images import open_source

LINES = (
    "a", "..", ".", "../a", "/etc/passwd", "a/../b", "\0", "a b", "\xe9", "C:\\x", "~", "*", "a" * 300, "", "\u2028",
    "#", "a\\b", "1.png",
)  # fmt: skip


def picture(folder, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def png(mode: str = "RGB") -> bytes:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).convert(mode).save(file := io.BytesIO(), format="PNG")
    return file.getvalue()


def load(source) -> None:
    for place in range(len(source)):
        with contextlib.suppress(BrokenImage):
            source.load(place)


def index(rng, folder):
    """A damaged index is made again, or refused where it was named; one with other names that are whole is believed."""
    images, kept, names = folder / "images", folder / "index.npz", ["1.png", "a/2.png", os.fsdecode(b"\xff.png")]
    for name in names:
        picture(images, name, png())
    for place in (images, images / "a"):
        os.utime(place, (10**9, 10**9))
    ImageFolder(images, index=kept)
    damaged = rng.random() < 0.5
    if damaged:
        kept.write_bytes(mutate_bytes(kept.read_bytes(), rng, pick(rng, (400, 10**9))))
    else:
        arrays = dict(np.load(kept))
        for name in [pick(rng, list(arrays)) for _ in range(int(rng.integers(1, 3)))]:
            change = pick(rng, ("delete", "dtype", "shape", "values", "object"))
            if change == "delete":
                arrays.pop(name, None)
            elif name in arrays and name != "key" and arrays[name].dtype != object:
                value = arrays[name]
                arrays[name] = {
                    "dtype": lambda v: v.astype(pick(rng, ("f4", "i1", "u8", "U9", "c8", "?"))),
                    "shape": lambda v: v.reshape(-1)[: int(rng.integers(v.size + 1))] if v.size else v[:0],
                    "values": lambda v: v + v.dtype.type(pick(rng, (1, 2, 100))),
                    "object": lambda v: np.array([None], dtype=object),
                }[change](value)
        np.savez(kept, **arrays)
    source = ImageFolder(images, index=kept)
    load(source)
    if damaged and sorted(source.name(i) for i in range(len(source))) != sorted(names):
        raise Wrong(f"names {[source.name(i) for i in range(len(source))]}")


def text(rng, folder):
    """A list of images."""
    for name in ("1.png", "a/2.png", "\xe9.png"):
        picture(folder, name, png())
    lines = ["1.png", "a/2.png", "\xe9.png", *(pick(rng, LINES) for _ in range(3))]
    if rng.random() < 0.5:
        mutated = mutate_tree(lines, rng, hostile=LINES)
        lines = list(map(str, mutated if isinstance(mutated, list) else [mutated]))
    data = pick(rng, ("\n", "\r\n", "\r", "\n\n")).join(lines)
    data = data.encode(pick(rng, ("utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")
    (folder / "list.txt").write_bytes(mutate_bytes(data, rng) if rng.random() < 0.5 else data)
    source = open_source(str(folder / "list.txt"))
    load(source)


def videos(rng, folder):
    """Nothing outside the folders of frames is taken for a video."""
    for name in ("a", "b"):
        for number in range(3):
            picture(folder, f"JPEGImages/480p/{name}/{number:05}.jpg", png())
            picture(folder, f"Annotations/480p/{name}/{number:05}.png", png("L"))
    shutil.copytree(folder / "JPEGImages/480p/a", folder / "JPEGImages/out")
    lines = ["a", "b", *(pick(rng, (*LINES, "../out")) for _ in range(int(rng.integers(2))))]
    data = "\n".join(lines).encode(errors="replace")
    picture(folder, "ImageSets/2017/val.txt", mutate_bytes(data, rng) if rng.random() < 0.5 else data)
    if rng.random() < 0.5:
        victim = pick(rng, sorted(folder.glob("*/480p/a/*")))
        victim.write_bytes(mutate_bytes(victim.read_bytes(), rng))
    for video in find_videos(folder):
        if {file.parent.parent.name for file in video.frames + video.masks} != {"480p"}:
            raise Wrong(f"video {video.name!r} is outside")
        for frame, mask in zip(video.frames, video.masks, strict=True):
            read_frame(frame)
            numbers, palette = read_mask(mask)
            if numbers.ndim != 2 or len(palette) != 768:
                raise Wrong(f"mask {numbers.shape}, palette of {len(palette)}")


def attempt(rng, folder):
    pick(rng, (index, index, text, videos))(rng, folder)
