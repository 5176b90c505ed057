import os

import cv2
import numpy as np
import pytest

from pretrain.data.decode import BrokenImage
from pretrain.data.folder import ImageFolder
from pretrain.errors import UserError

JPEG = cv2.imencode(".jpg", np.full((4, 6, 3), 90, np.uint8))[1].tobytes()


def write(path, data=JPEG):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def names(source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def test_images_at_any_depth_sorted_and_nothing_else(tmp_path):
    others = ("notes.txt", ".hidden.jpg", ".git/x.jpg")
    images = ("b.JPG", "a/z.png", "a/b/c.webp", "Z.tif", "é.jpeg", "train/n01440764/n01440764_18.JPEG")
    for name in others + images:
        write(tmp_path / name)
    source = ImageFolder(tmp_path)
    assert names(source) == sorted(images)
    assert source.load(0).shape == (4, 6, 3)
    assert names(ImageFolder(tmp_path, endings=[".PNG", ".tif"])) == ["Z.tif", "a/z.png"]


def test_the_way_to_the_folder_does_not_matter(tmp_path, monkeypatch):
    write(tmp_path / "sub/x.jpg")
    os.symlink(tmp_path, tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    for root in (".", "./", str(tmp_path) + "/", "link", "sub/.."):
        source = ImageFolder(root)
        assert names(source) == ["sub/x.jpg"] and source.load(0).size


def test_links_to_folders_are_followed_once(tmp_path):
    write(tmp_path / "elsewhere/x.jpg")
    (tmp_path / "root").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "root/link")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root/link2")
    os.symlink(tmp_path / "root", tmp_path / "root/loop")
    os.symlink(tmp_path / "elsewhere/x.jpg", tmp_path / "root/file.jpg")
    assert names(ImageFolder(tmp_path / "root")) == ["file.jpg", "link/x.jpg"]


def test_a_name_that_is_no_utf8_is_a_name(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(JPEG)
    source = ImageFolder(tmp_path)
    assert os.fsencode(source.name(0)) == b"\xff.jpg" and source.load(0).size


def test_a_broken_file_is_named_relative_to_the_folder(tmp_path):
    write(tmp_path / "sub/bad.jpg", b"")
    with pytest.raises(BrokenImage) as error:
        ImageFolder(tmp_path).load(0)
    assert (error.value.name, error.value.reason) == ("sub/bad.jpg", "empty file")


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        ImageFolder(tmp_path / "absent")
    write(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="not a folder"):
        ImageFolder(tmp_path / "notes.txt")
    with pytest.raises(UserError, match=r"no image found under .*\.jpg, \.jpeg") as error:
        ImageFolder(tmp_path)
    assert str(tmp_path) in str(error.value) and "tar" not in str(error.value)
    write(tmp_path / "0.tar")
    with pytest.raises(UserError, match=r"for its tar shards, give .*/\*\.tar"):
        ImageFolder(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    write(tmp_path / "closed/x.jpg")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(UserError, match="closed cannot be read"):
        ImageFolder(tmp_path)
