import os
import time
from dataclasses import replace

import numpy as np
import pytest

from pretrain.data import index as index_module
from pretrain.data.folder import ImageFolder
from pretrain.data.index import Index, Names, cached_index
from pretrain.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Six images in three folders that were not touched for a day."""
    for name in ("a/0.jpg", "a/1.jpg", "b/c/2.jpg", "b/c/3.jpg", "b/4.jpg", "5.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    settle(tmp_path / "images")
    return tmp_path / "images"


def settle(folder):
    for path, _, _ in os.walk(folder):
        if time.time() - os.stat(path).st_mtime < 1000:
            os.utime(path, (time.time() - 86400,) * 2)


def names(folder, **options) -> list[str]:
    source = ImageFolder(folder, **options)
    return [source.name(i) for i in range(len(source))]


def cannot_list(monkeypatch):
    def fail(*_):
        raise AssertionError("the folder was listed again")

    monkeypatch.setattr("pretrain.data.folder.list_folder", fail)


def test_names_come_back_as_they_went_in():
    strings = ["", "a", "é/ü.jpg", os.fsdecode(b"\xff\xfe"), "two\nlines", "ends in zero\0"]
    packed = Names.pack(strings)
    assert len(packed) == 6 and list(packed) == strings and packed[np.int64(2)] == "é/ü.jpg"
    with pytest.raises(IndexError):
        packed[6]
    assert list(Names.pack([])) == []


def test_a_list_is_made_once_and_read_again(folder, tmp_path, monkeypatch):
    first = names(folder, index=tmp_path / "kept")
    assert len(first) == 6
    cannot_list(monkeypatch)
    assert names(folder, index=tmp_path / "kept") == first


@pytest.mark.parametrize("change", ["add", "remove", "rename", "add below a link", "new folder"])
def test_a_changed_folder_is_listed_again(folder, tmp_path, change):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/9.jpg").touch()
    os.symlink(tmp_path / "far", folder / "link")
    settle(tmp_path)
    before = names(folder, index=tmp_path / "kept")
    assert len(before) == 7 and (tmp_path / "kept").exists()
    if change == "add":
        (folder / "b/c/new.jpg").touch()
    elif change == "remove":
        (folder / "a/1.jpg").unlink()
    elif change == "rename":
        (folder / "a/1.jpg").rename(folder / "a/7.jpg")
    elif change == "add below a link":
        (tmp_path / "far/new.jpg").touch()
    else:
        (folder / "b/new").mkdir()
        (folder / "b/new/x.jpg").touch()
    after = names(folder, index=tmp_path / "kept")
    assert after != before and after == names(folder)


def test_a_folder_that_changed_just_now_is_not_trusted(folder, tmp_path):
    (folder / "new.jpg").touch()  # within the tick of the clock another file could follow
    names(folder, index=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("where", ["images", "images/b", "link"])
def test_an_index_among_the_images_would_never_be_current(folder, tmp_path, where, caplog):
    os.symlink(folder, tmp_path / "link")
    assert len(names(folder, index=tmp_path / where / "kept")) == 6
    assert not (tmp_path / where / "kept").exists()
    assert "kept would lie among the images" in caplog.text and "give an index outside" in caplog.text


def test_another_folder_or_other_endings_are_another_list(folder, tmp_path):
    names(folder, index=tmp_path / "kept")
    (folder / "b/x.png").touch()
    settle(folder)
    assert names(folder / "b", index=tmp_path / "kept") == ["4.jpg", "c/2.jpg", "c/3.jpg", "x.png"]
    assert names(folder, endings=[".png"], index=tmp_path / "kept") == ["b/x.png"]


def test_an_index_never_replaces_something_precious(folder, tmp_path):
    for content in (b"my labels", b"", b"PK\x03\x04 cut off"):
        (tmp_path / "precious").write_bytes(content)
        with pytest.raises(UserError, match="precious is not an index of images"):
            names(folder, index=tmp_path / "precious")
        assert (tmp_path / "precious").read_bytes() == content
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    with pytest.raises(UserError, match="not an index"):
        names(folder, index=tmp_path / "other.npz")


def test_without_a_path_large_lists_go_to_the_users_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names(folder)
    assert not (tmp_path / "cache").exists()  # too few to be worth it
    monkeypatch.setattr(index_module, "WORTH_KEEPING", 6)
    first = names(folder)
    (kept,) = (tmp_path / "cache/cropfield").iterdir()
    kept.write_bytes(b"damaged")
    assert names(folder) == first  # a damaged file of our own is made again
    cannot_list(monkeypatch)
    assert names(folder) == first


def test_a_cache_that_cannot_be_written_is_done_without(folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "cache").write_text("a file, no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "WORTH_KEEPING", 1)
    assert len(names(folder)) == 6
    assert "not kept and will be made again" in caplog.text
    with pytest.raises(UserError, match="cannot write"):
        names(folder, index=tmp_path / "cache/kept")


def test_an_index_of_nothing_is_not_kept_from_failing(tmp_path):
    with pytest.raises(UserError, match="no image found"):
        ImageFolder(tmp_path, index=tmp_path / "kept")


def test_made_from_tells_lists_apart(tmp_path):
    made = []

    def make():
        made.append(1)
        return index_module.Index.of(["x"], {})

    for key in (("a",), ("a",), ("b",)):
        assert list(cached_index(key, make, tmp_path / "kept").names) == ["x"]
    assert len(made) == 2


def test_a_list_whose_arrays_do_not_belong_together_is_refused():
    good = Index.of(["a", "bc"], {"/x": (1, 2)}, [(0, 1, 2), (0, 3, 4)])
    good.check()
    for change in (
        {"places": good.places[:1]},
        {"places": good.places.astype(np.float64)},
        {"stamps": good.stamps[:, :1]},
        {"names": Names(good.names.text, np.array([3, 1]))},
        {"names": Names(good.names.text, np.array([1, 99]))},
        {"names": Names(good.names.text, np.array([-1, 3]))},
        {"sources": Names(good.sources.text[None], good.sources.ends)},
    ):
        with pytest.raises(ValueError):
            replace(good, **change).check()
