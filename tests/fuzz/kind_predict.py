"""predict's inputs: folders of names that file systems allow and nobody expects, pipes, loops of links, broken media,
one input given twice. The detector is a stub.

Inputs stay as they are; each readable image has one entry and one picture, and each other is listed.
"""

import contextlib
import functools
import importlib.util
import io
import json
import os
import socket
import sys
from pathlib import Path

import cv2
import numpy as np
from harness import Wrong
from mutations import mutate_bytes, pick
from PIL import Image

from cropfield import predict
from cropfield.media import find_media, is_video
from pretrain.data.decode import BrokenImage, decode_image
from pretrain.data.reading import AS_RGB

SHARE, SECONDS = 0.5, 40
STEMS = (
    b"a", b"A", b"a b", b"\xc3\xa9", b"e\xcc\x81", b"\xff\xfe", b"new\nline", b"tab\t", b"\x1b[31m", b"-x",
    b"--output", b"k=v", b"a.b=1", b"#1", b"100%",
    b"%d", b"%05d", b"$HOME", b"`id`", b"'q'", b'"q"', b"{1..2}", b"[x]", b"*", b"~", b".hidden", b"a.", b"a..b", b" ",
    b"CON",
    b"\xe2\x80\xae", b"n" * 240, b"\\", b"a\\b", b"a;b", b"&", b"<b>", b"a#1", b"a-2", b"predictions", b"broken_images",
)  # fmt: skip
ENDINGS = (b".png", b".png", b".jpg", b".PNG", b".gif", b".webp", b".mp4", b".avi", b".txt", b"")


@functools.cache
def tool():
    path = Path(__file__).parents[2] / "tools/predict.py"
    spec = importlib.util.spec_from_file_location("predict", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    predict.Detector, predict.read_tensors = Stub, lambda path: ({}, {})
    predict.choose_categories = lambda *unused: None
    return module


class Stub:
    categories, reading = [{"id": 3, "name": "a"}], AS_RGB

    def __init__(self, *unused):
        pass

    def __call__(self, image, image_id):
        return [{"image_id": image_id, "category_id": 0, "bbox": [1.0, 1.0, 5.0, 5.0], "score": 0.9}]


@functools.cache
def media() -> dict[bytes, bytes]:
    pixels, found = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8), {}
    for ending, kind in ((b".png", "PNG"), (b".jpg", "JPEG"), (b".gif", "GIF"), (b".webp", "WEBP")):
        Image.fromarray(pixels).save(file := io.BytesIO(), format=kind)
        found[ending] = file.getvalue()
    path = "/tmp/cropfield-fuzz.avi"
    video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10, (24, 16))
    video.write(pixels)
    video.write(pixels)
    video.release()
    found[b".avi"] = Path(path).read_bytes()
    os.unlink(path)
    return found


def populate(folder: bytes, rng, depth: int = 0) -> None:
    for _ in range(int(rng.integers(1, 6))):
        name, chance = os.path.join(folder, pick(rng, STEMS) + pick(rng, ENDINGS)), rng.random()
        with contextlib.suppress(OSError):
            if os.path.lexists(name):  # a pipe, perhaps
                continue
            if chance < 0.5:
                contents = media()
                data = contents.get(os.path.splitext(name)[1].lower(), pick(rng, list(contents.values())))
                Path(os.fsdecode(name)).write_bytes(data if rng.random() < 0.7 else mutate_bytes(data, rng))
            elif chance < 0.6:
                os.symlink(pick(rng, (b".", b"..", b"nowhere", b"/dev/zero", folder, name)), name)
            elif chance < 0.7:
                os.mkfifo(name)
            elif chance < 0.75:
                socket.socket(socket.AF_UNIX).bind(name)
            elif chance < 0.8:
                Path(os.fsdecode(name)).touch()
            elif depth < 2:
                os.mkdir(name)
                populate(name, rng, depth + 1)


def contents(folder: Path) -> dict[str, bytes]:
    paths = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    return {str(path): path.read_bytes() for path in paths if path.is_file() and not path.is_symlink()}


def attempt(rng, folder):
    inside = folder / "in"
    inside.mkdir()
    populate(os.fsencode(inside), rng)
    Image.new("RGB", (9, 9)).save(inside / "good.png")
    options = [inside, *sorted(inside.iterdir())]
    inputs = [str(pick(rng, options)) for _ in range(int(rng.integers(1, 4)))]
    inputs = [os.path.relpath(path, folder) if rng.random() < 0.3 else path for path in inputs]
    output = folder / pick(rng, ("out", "in/out", "o/u/t", "in", "in/good.png", os.fsdecode(b"o\xff"), "o=1", "-"))
    if rng.random() < 0.1:
        with contextlib.suppress(OSError):
            output.mkdir(parents=True)
    before, module = contents(inside), tool()
    sys.argv = [
        "predict.py",
        *inputs,
        "--config-file",
        str(Path(module.__file__).parents[1] / "configs/COCO/mask_rcnn_cropfield_tiny.py"),
    ]
    sys.argv += ["--weights", str(folder / "w.pth"), f"--output={output}"]
    pictures = rng.random() < 0.8
    sys.argv += [] if pictures else ["--no-pictures"]
    args = module.parse_args()
    found = find_media(args.inputs, output)[0]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            module.main()
        finally:
            after = contents(inside)
            if any(after.get(path) != data for path, data in before.items()):
                raise Wrong("an input was changed")
    check(json.loads((output / "predictions.json").read_text()), output, found, pictures)


def check(content: dict, output: Path, found: list, pictures: bool) -> None:
    ids = [entry["id"] for entry in content["images"]]
    if len(set(ids)) != len(ids) or {a["image_id"] for a in content["annotations"]} - set(ids):
        raise Wrong(f"ids {ids}")
    images = [medium for medium in found if not is_video(medium.path)]
    readable = [medium for medium in images if decodes(medium.path)]
    named = [entry["file_name"] for entry in content["images"]]
    if sorted(str(medium.path) for medium in readable) != sorted(
        n for n in named if not any(f"{m.path}#" in n for m in found if is_video(m.path))
    ):
        raise Wrong(f"entries for {named}, readable are {[m.path for m in readable]}")
    drawn = [medium for medium in readable if (output / medium.place).is_file()]
    if len(drawn) != (len(readable) if pictures else 0):
        raise Wrong(f"{len(drawn)} pictures of {len(readable)}")
    videos = [m for m in found if is_video(m.path) and any(n.startswith(f"{m.path}#") for n in named)]
    broken, listed = len(found) - len(readable) - len(videos), output / "broken_images.txt"
    lines = listed.read_text(errors="surrogateescape").split("\n")[:-1] if listed.exists() else []
    if len({str(m.path) for m in found}) == len(found) and len(lines) != broken:
        raise Wrong(f"{broken} broken, listed are {lines}")


def decodes(path: Path) -> bool:
    try:
        decode_image(path)
    except BrokenImage:
        return False
    return True
