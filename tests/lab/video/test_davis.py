"""DAVIS's files: read, written and refused."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from lab.compose.videos import VideoPlan, compose_videos
from lab.video.davis import (
    Video,
    dataset_name,
    davis_palette,
    find_videos,
    read_frame,
    read_mask,
    write_mask,
)
from pretrain.errors import UserError


@pytest.fixture
def davis(tmp_path):
    compose_videos(VideoPlan(2, 4, 2, (48, 64)), tmp_path / "davis", davis_palette())
    return tmp_path / "davis"


def test_videos_are_found_in_the_order_of_the_list(davis):
    (davis / "ImageSets/2017/val.txt").write_text("composed-01\ncomposed-00\n")
    videos = find_videos(davis)
    assert [video.name for video in videos] == ["composed-01", "composed-00"]
    assert [path.name for path in videos[0].frames] == [f"{i:05d}.jpg" for i in range(4)]
    assert [path.name for path in videos[0].masks] == [f"{i:05d}.png" for i in range(4)]


def test_only_the_val_split_itself_is_called_davis(davis):
    videos = find_videos(davis)
    assert dataset_name(davis, "val", videos) == "davis/val"
    real = [Video(name, [], []) for name in ("bike-packing", "blackswan", "soapbox", *map(str, range(27)))]
    assert dataset_name(davis, "val", real) == "davis2017"
    assert dataset_name(davis, "train", real) == "davis/train"


def test_the_palette_is_davis_own():
    colors = np.array(davis_palette()).reshape(256, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0)}
    known |= {15: (192, 128, 128), 255: (224, 224, 192)}
    assert all(tuple(colors[number]) == color for number, color in known.items())


def test_a_mask_is_written_as_an_indexed_png_and_read_back(tmp_path):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_mask(tmp_path / "v" / "00000.png", mask, davis_palette())
    image = Image.open(tmp_path / "v" / "00000.png")
    assert image.mode == "P" and np.array_equal(np.array(image), mask)  # as DAVIS's evaluation opens it
    found, palette = read_mask(tmp_path / "v" / "00000.png")
    assert np.array_equal(found, mask) and palette[:36] == davis_palette()[:36]


def test_void_counts_as_no_object(tmp_path):
    write_mask(tmp_path / "a.png", np.array([[0, 1], [255, 2]], np.uint8), davis_palette())
    assert read_mask(tmp_path / "a.png")[0].tolist() == [[0, 1], [0, 2]]


def test_what_is_refused(davis, tmp_path):
    with pytest.raises(UserError, match="ImageSets"):
        find_videos(tmp_path)
    with pytest.raises(UserError, match="train.txt"):
        find_videos(davis, "train")
    (davis / "Annotations/480p/composed-01/00002.png").unlink()
    with pytest.raises(UserError, match="every frame is annotated"):
        find_videos(davis)
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match="colour mode RGB"):
        read_mask(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    whole, start = io.BytesIO(), b"\x89PNG\r\n\x1a\n\0\0\0\5IHDR\0\0\0\4\0"
    Image.new("L", (4, 4)).save(whole, "PNG")
    short = start + zlib.crc32(start[12:]).to_bytes(4, "big")
    for data in (b"no image", whole.getvalue()[:45], short):  # the decoder has an error for each
        (tmp_path / "broken.png").write_bytes(data)
        with pytest.raises(UserError, match="cannot read .*broken.png .*get it again"):
            read_mask(tmp_path / "broken.png")
    with pytest.raises(UserError, match="get the frame again"):
        read_frame(tmp_path / "broken.png")
    for name in ("gone", "n" * 300):  # no folder can be called so
        (davis / "ImageSets/2017/val.txt").write_text(f"{name}\n")
        with pytest.raises(UserError, match="holds 0 frames"):
            find_videos(davis)
    (davis / "ImageSets/2017/val.txt").write_text("")
    with pytest.raises(UserError, match="names no video"):
        find_videos(davis)


@pytest.mark.parametrize("name", ["/tmp", "../composed-00", "..", "a\\b", "composed-00/../composed-00"])
def test_a_list_names_videos_and_no_paths(davis, name):
    (davis / "ImageSets/2017/val.txt").write_text(f"composed-00\n{name}\n")
    with pytest.raises(UserError, match="is a path"):
        find_videos(davis)


def test_a_list_that_is_no_text_or_names_a_video_twice(davis):
    listed = davis / "ImageSets/2017/val.txt"
    for content, words in ((b"\xff\n", "not UTF-8"), (b"composed-00\ncomposed-00\n", "twice")):
        listed.write_bytes(content)
        with pytest.raises(UserError, match=words):
            find_videos(davis)
