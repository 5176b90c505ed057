"""Several sources in one, patterns, and what counts as an image by its ending."""

import json
import os
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image, features

from pretrain.data.decode import BrokenImage, extra_endings
from pretrain.data.folder import ImageFolder
from pretrain.data.images import open_source
from pretrain.errors import UserError


def pictures(folder: Path, *names: str) -> Path:
    """Grey images whose value is their place in `names`, counted from 1."""
    for value, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), value).save(folder / name)
    return folder


def seen(source) -> list[tuple[str, int]]:
    return [(os.path.basename(source.name(i)), int(source.load(i)[0, 0, 0])) for i in range(len(source))]


def test_several_sources_are_one_after_the_other(tmp_path):
    a, b = pictures(tmp_path / "a", "1.png", "2.png"), pictures(tmp_path / "b", "3.png")
    (tmp_path / "list.txt").write_text("2.png\n")
    (tmp_path / "coco.json").write_text(json.dumps({"images": [{"file_name": "3.png"}]}))
    roots = [str(a), str(tmp_path / "list.txt"), str(b / "3.png"), str(tmp_path / "coco.json")]
    source = open_source(roots, images=[None, str(a), None, str(b)])
    assert seen(source) == [("1.png", 1), ("2.png", 2), ("2.png", 2), ("3.png", 1), ("3.png", 1)]
    assert source.name(0) == str(a / "1.png") and f"{a}: 2 .png" in source.kinds
    with pytest.raises(IndexError):
        source.name(5)
    (b / "3.png").write_bytes(b"")
    with pytest.raises(BrokenImage, match=f"{b / '3.png'}: empty file"):
        source.load(3)


@pytest.mark.parametrize(
    "pattern, expected", [("*", 3), ("[ab]", 3), ("b", 1), ("a/*.png", 2), ("**/*.png", 3), ("**", 3)]
)
def test_patterns_of_folders_and_files(tmp_path, monkeypatch, pattern, expected):
    pictures(tmp_path / "a", "1.png", "2.png"), pictures(tmp_path / "b", "3.png")
    (tmp_path / "a" / "notes.txt").write_text("no list")
    assert len(open_source(str(tmp_path / pattern))) == expected
    monkeypatch.chdir(tmp_path)
    source = open_source(pattern)
    assert len(source) == expected and all(value for _, value in seen(source))


def test_a_folder_that_a_pattern_fits_is_taken_once_with_all_that_is_in_it(tmp_path):
    pictures(tmp_path / "a", "1.png", "b/2.png", "b/c/3.png")
    assert sorted(seen(open_source(f"{tmp_path}/a/**"))) == [("1.png", 1), ("2.png", 2), ("3.png", 3)]
    assert sorted(seen(open_source(f"{tmp_path}/a/*"))) == [("1.png", 1), ("2.png", 2), ("3.png", 3)]


def test_shards_join_and_their_images_have_names_of_their_own(tmp_path):
    folder, member = pictures(tmp_path / "a", "1.png"), tmp_path / "a" / "1.png"
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        with tarfile.open(tmp_path / name / "0.tar", "w") as tar:
            tar.add(member, "1.png")
    for source in (
        open_source([str(folder), str(tmp_path / "x" / "0.tar"), str(tmp_path / "y" / "0.tar")]),
        open_source(str(tmp_path / "*" / "0.tar")),
    ):
        assert len({source.name(i) for i in range(len(source))}) == len(source) >= 2
        assert all(value == 1 for _, value in seen(source))


def test_endings_count_in_any_case_and_from_a_config(tmp_path):
    pictures(tmp_path, "1.png", "2.jpg")
    for root in (str(tmp_path), f"{tmp_path}/*.*", [str(tmp_path / "1.png")]):
        assert len(open_source(root, endings=OmegaConf.create([".PNG"]))) == 1


@pytest.mark.parametrize(
    "roots, images, words",
    [
        (["a", "absent"], None, "absent does not exist"),
        ([], None, "not a list of image sources"),
        (["a", 5], None, "not a list of image sources"),
        (["a", "b/../a"], None, "b/../a is given twice"),
        (["a", "b/../a/c"], None, "b/../a/c is in a, all of whose images are taken"),
        (["b/../a/1.png", "a"], None, "b/../a/1.png is in a, all"),
        (["a", "a/*"], None, "a/c, of a/., is in a, all"),
        (["a*", "*a"], None, "a is given twice"),
        (["a", "**/*.png"], None, "a/.*, of .*, is in a, all"),
        (["*/1*", "a"], None, "a/1.png, of .*, is in a, all"),
        (["*/1.png", "a/?.png"], None, "a/1.png is given twice"),
        ("*/*.png", "b", "images=b is for .txt or .json files"),
        (["a", "b"], ["a"], "2 image sources and 1 folders"),
        ("nothing/*.jpg", None, "nothing fits nothing/"),
        (["a", "x*"], None, "nothing fits x"),
    ],
)
def test_several_sources_that_are_none(tmp_path, monkeypatch, roots, images, words):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "a", "1.png", "c/2.png"), pictures(tmp_path / "b", "3.png")
    with pytest.raises(UserError, match=words):
        open_source(roots, images)


def test_patterns_that_do_not_overlap_are_several_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "a", "1.png", "c/2.png"), pictures(tmp_path / "b", "3.png"), pictures(tmp_path / "ab", "4.png")
    assert sorted(seen(open_source(["a/*", "b/..//ab", "[b]/*"]))) == [
        ("1.png", 1),
        ("2.png", 2),
        ("3.png", 1),
        ("4.png", 1),
    ]


def test_an_index_is_of_one_source(tmp_path):
    pictures(tmp_path / "a", "1.png"), pictures(tmp_path / "b", "3.png")
    for roots in (f"{tmp_path}/*", [str(tmp_path / "a"), str(tmp_path / "b")]):
        with pytest.raises(UserError, match="keeps the list of one source, and 2 are given"):
            open_source(roots, index=tmp_path / "kept.npz")


def test_what_pillow_reads_is_taken_and_what_is_left_out_is_counted(tmp_path):
    picture, taken = Image.new("RGB", (32, 32), (200, 100, 50)), ["a.png"]
    for name, feature in (("b.avif", "avif"), ("c.jp2", "jpg_2000")):
        if features.check(feature):
            picture.save(tmp_path / name)
            taken.append(name)
    picture.save(tmp_path / "a.png")
    for name in ("x.xyz", "y.xyz", "notes"):
        (tmp_path / name).write_bytes(b"?")
    source = ImageFolder(tmp_path)
    assert [source.name(i) for i in range(len(source))] == taken
    for i in range(len(source)):
        assert abs(source.load(i).astype(int).reshape(-1, 3).mean(0) - (200, 100, 50)).max() < 4
    assert "1 .png" in source.kinds and source.kinds.endswith("left out by their ending: 2 .xyz, 1 without ending")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.xyz").write_bytes(b"?")
    with pytest.raises(UserError, match="no image found.*; left out by their ending: 1 .xyz"):
        ImageFolder(tmp_path / "only")


def test_heif_is_taken_where_its_plug_in_is(monkeypatch):
    assert ".heic" not in extra_endings() or find_spec("pillow_heif")
    monkeypatch.setattr("pretrain.data.decode.find_spec", lambda name: name == "pillow_heif")
    assert extra_endings()[-2:] == (".heic", ".heif")
