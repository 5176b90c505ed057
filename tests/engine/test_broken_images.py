"""A folder with every kind of bad and odd image, trained on to the end."""

import io
import logging
import os
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.utils import comm
from PIL import Image

from pretrain.data.broken import BrokenImages
from pretrain.data.decode import MAX_BYTES
from pretrain.engine.broken_images import BrokenImagesReport
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain
from pretrain.errors import UserError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "cropfield_tiny.py"
SMALL = (
    "model.backbone.embed_dim=32", "model.backbone.depth=1", "model.backbone.num_heads=2", "model.num_prototypes=16",
    "model.head_hidden_dim=16", "model.bottleneck_dim=16", "dataloader.train.crops.num_local=1",
    "dataloader.train.num_workers=0", "train.amp.enabled=False", "train.log_period=1",
)  # fmt: skip


def encode(array: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    image = Image.fromarray(array)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def make_broken(folder: Path, picture: np.ndarray) -> dict[str, str]:
    """One file of every kind -> reasons by name."""
    png, jpeg = encode(picture, "PNG"), encode(picture, "JPEG")
    bomb, flat, garbled = bytearray(encode(picture, "BMP")), bytearray(png), bytearray(png)
    bomb[18:26] = (30_000).to_bytes(4, "little") * 2
    flat[16:20] = bytes(4)
    flat[29:33] = zlib.crc32(flat[12:29]).to_bytes(4, "big")
    garbled[80:120] = bytes(40)
    files = {
        "empty file": b"", "not an image": b"<html>404 not found</html>", "truncated": jpeg[: len(jpeg) // 2],
        "too many pixels": bytes(bomb), "zero size": bytes(flat), "cannot be decoded": bytes(garbled),
    }  # fmt: skip
    for reason, data in files.items():
        (folder / f"{reason}.jpg").write_bytes(data)
    os.symlink("nowhere", folder / "missing.jpg")
    os.symlink("cannot be read.jpg", folder / "cannot be read.jpg")  # a loop
    os.mkfifo(folder / "not a file.jpg")
    with open(folder / "file too large.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    reasons = (*files, "missing", "cannot be read", "not a file", "file too large")
    return {f"{reason}.jpg": reason for reason in reasons}


def make_odd(folder: Path, picture: np.ndarray) -> None:
    """Readable, but not plain RGB."""
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = np.dstack([picture, np.full(picture.shape[:2], 99, np.uint8)])
    for name, data in {
        "cmyk.jpg": encode(picture, "JPEG", "CMYK"),
        "grey.jpg": encode(picture, "JPEG", "L"),
        "16bit.png": encode(picture[..., 0].astype(np.uint16) * 256, "PNG"),
        "alpha.png": encode(alpha, "PNG"),
        "turned.jpg": encode(picture, "JPEG", exif=exif),
        "palette.gif": encode(picture, "GIF", "P"),
        "one-pixel.png": encode(picture[:1, :1], "PNG"),
        "a-line.png": encode(np.repeat(picture[:1], 3, 1), "PNG"),
    }.items():
        (folder / name).write_bytes(data)


def make_images(folder: Path, count: int) -> dict[str, str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        (folder / f"{i}.jpg").write_bytes(encode(picture, "JPEG"))
    make_odd(folder, picture)
    return make_broken(folder, picture)


def config(images, output, *overrides):
    given = [f"dataloader.train.source.root={images}", f"train.output_dir={output}"]
    return load_config(CONFIG, [*given, *SMALL, *overrides])


def listed(output) -> dict[str, str]:
    lines = (output / "broken_images.txt").read_text().splitlines()
    return {name: reason for reason, name in (line.split("\t") for line in lines)}


def test_every_kind_is_counted_and_the_run_goes_on_to_its_end(tmp_path, caplog):
    broken = make_images(tmp_path / "images", 42)
    assert len(broken) == 10
    caplog.set_level(logging.INFO)
    logging.getLogger("pretrain").addHandler(caplog.handler)  # Detectron2 stops its loggers from propagating
    pretrain(config(tmp_path / "images", tmp_path / "out", "dataloader.train.batch_size=60", "train.max_iter=2"))
    logging.getLogger("pretrain").removeHandler(caplog.handler)
    assert (tmp_path / "out/last.pth").exists() and listed(tmp_path / "out") == broken
    summary = [line for line in caplog.messages if line.startswith("10 broken images: ")]
    assert len(summary) == 1 and all(f"1 {reason} ({name})" in summary[0] for name, reason in broken.items())
    assert sum("skipped a broken image" in line for line in caplog.messages) == 10


def test_after_a_resume_the_list_goes_on_and_the_limit_starts_anew(tmp_path):
    def part(start_iter, found):
        account = BrokenImages(10, 0.2)
        account.add(found)
        report = BrokenImagesReport(tmp_path / "broken_images.txt", period=1)
        report.trainer = SimpleNamespace(
            start_iter=start_iter, iter=start_iter, max_iter=9, loader=SimpleNamespace(broken=account)
        )
        report.before_train()
        report.after_step()
        report.after_train()

    part(0, [("a.jpg", "truncated"), ("b\udcff.jpg", "missing")])  # a name that is no UTF-8
    part(1, [("b\udcff.jpg", "missing"), ("c.jpg", "empty file")])
    text = (tmp_path / "broken_images.txt").read_bytes()
    assert text == b"truncated\ta.jpg\nmissing\tb\xff.jpg\nempty file\tc.jpg\n"
    part(2, [("e\u2028\r.jpg", "missing")])  # which no line ends at
    part(3, [])
    part(4, [("f.jpg", "missing")])
    assert (tmp_path / "broken_images.txt").read_bytes() == text + "missing\te\u2028\r.jpg\nmissing\tf.jpg\n".encode()
    part(0, [("d.jpg", "missing")])  # a new run in the same folder
    assert (tmp_path / "broken_images.txt").read_bytes() == b"missing\td.jpg\n"


def test_past_the_limit_the_run_stops_with_its_list_written(tmp_path):
    broken = make_images(tmp_path / "images", 8)
    with pytest.raises(UserError, match=r"26 images are broken, \d+ so far: 1 .*max_broken allows a share of 0\.2"):
        pretrain(config(tmp_path / "images", tmp_path / "out", "dataloader.train.batch_size=26", "train.max_iter=2"))
    assert listed(tmp_path / "out").items() <= broken.items()
    assert len(listed(tmp_path / "out")) > 0.2 * 26


def test_what_other_processes_found_counts_too(tmp_path, monkeypatch):
    broken = make_images(tmp_path / "images", 42)
    found_there = [(f"there/{i}.jpg", "truncated") for i in range(5)]
    monkeypatch.setattr(comm, "all_gather", lambda mine: [mine, found_there] if isinstance(mine, list) else [mine])
    with pytest.raises(UserError, match="60 images are broken, 1[345] so far"):
        pretrain(config(tmp_path / "images", tmp_path / "out", "dataloader.train.batch_size=60", "train.max_iter=2"))
    assert dict(found_there).items() <= listed(tmp_path / "out").items()
    assert len(broken) == 10
