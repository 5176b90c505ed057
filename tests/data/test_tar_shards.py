import io
import os
import tarfile
import time

import cv2
import numpy as np
import pytest

from pretrain.data.decode import BrokenImage
from pretrain.data.tar_shards import TarShards, expand
from pretrain.errors import UserError


def picture(level: int) -> bytes:
    return cv2.imencode(".png", np.full((4, 6, 3), level, np.uint8))[1].tobytes()


def make_shard(path, members: dict[str, bytes], **options):
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path):
    """Three shards of two samples; a sample is an image and its label."""
    for shard in range(3):
        members = {}
        for i in (2 * shard, 2 * shard + 1):
            members |= {f"{i:04}.png": picture(i), f"{i:04}.cls": str(i).encode()}
        make_shard(tmp_path / f"train-{shard:06}.tar", members)
    return tmp_path


def levels(source) -> list[int]:
    return [int(source.load(i)[0, 0, 0]) for i in range(len(source))]


def test_every_image_of_every_shard_at_its_place(shards):
    for pattern in ("train-{000000..000002}.tar", "train-*.tar"):
        source = TarShards(f"{shards}/{pattern}")
        assert levels(source) == [0, 1, 2, 3, 4, 5]
        assert source.name(3) == "train-000001.tar/0003.png"
    assert levels(TarShards(shards / "train-000001.tar")) == [2, 3]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_folders_and_links_in_every_tar_format(tmp_path, format):
    long = "d" * 90 + "/" + "n" * 95 + ".PNG"
    (tmp_path / "x").mkdir()
    (tmp_path / "x/3.png").write_bytes(picture(3))
    os.link(tmp_path / "x/3.png", tmp_path / "x/4.png")
    os.symlink("3.png", tmp_path / "x/5.png")
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as tar:
        info = tarfile.TarInfo(long)
        info.size = len(picture(9))
        tar.addfile(info, io.BytesIO(picture(9)))
        tar.add(tmp_path / "x", "x")
    source = TarShards(tmp_path / "x.tar")
    assert {source.name(i): level for i, level in enumerate(levels(source))}[f"x.tar/{long}"] == 9
    assert len(source) == 2  # links hold no image of their own


def test_endings_choose_among_a_samples_images(tmp_path):
    make_shard(
        tmp_path / "x.tar", {"0.jpg": picture(1), "0.seg.png": picture(2), "._0.jpg": b"a Mac's", "0.JSON": b"{}"}
    )
    assert levels(TarShards(tmp_path / "x.tar", endings=[".JPG"])) == [1]
    assert levels(TarShards(tmp_path / "x.tar")) == [1, 2]


def test_ranges_count_and_patterns_match_in_order(tmp_path):
    for name in ("a-8-0.tar", "a-8-1.tar", "a-9-0.tar", "a-9-1.tar", "a-10-0.tar", "a-10-1.tar", "b[0].tar"):
        (tmp_path / name).touch()

    def found(pattern):
        return [os.path.basename(file) for file in expand(f"{tmp_path}/{pattern}")]

    assert found("a-{8..10}-{0..1}.tar") == [f"a-{i}-{j}.tar" for i in (8, 9, 10) for j in (0, 1)]
    assert found("a-{9..10}-*.tar") == ["a-9-0.tar", "a-9-1.tar", "a-10-0.tar", "a-10-1.tar"]
    assert found("a-?-1.tar") == ["a-8-1.tar", "a-9-1.tar"]
    assert found("b[0].tar") == ["b[0].tar"]


def test_a_kept_index_is_read_again_and_made_again_when_a_shard_changes(shards, monkeypatch):
    for shard in shards.glob("*.tar"):
        os.utime(shard, (time.time() - 86400,) * 2)
    pattern, kept = f"{shards}/train-*.tar", shards / "kept"
    assert levels(TarShards(pattern, index=kept)) == [0, 1, 2, 3, 4, 5]
    with monkeypatch.context() as patched:
        patched.delattr("pretrain.data.tar_shards._list_shard")
        source = TarShards(pattern, index=kept)
        assert levels(source) == [0, 1, 2, 3, 4, 5] and source.name(5) == "train-000002.tar/0005.png"
    make_shard(shards / "train-000001.tar", {"x.png": picture(77)})
    assert levels(TarShards(pattern, index=kept)) == [0, 1, 77, 4, 5]
    (shards / "train-000001.tar").unlink()
    assert levels(TarShards(pattern, index=kept)) == [0, 1, 4, 5]


def test_a_broken_member_and_a_shard_that_went_away_are_broken_images(tmp_path):
    make_shard(tmp_path / "x.tar", {"a.png": b"no image", "b.png": b"", "c.png": picture(1)})
    source = TarShards(tmp_path / "x.tar")

    def reason(index):
        with pytest.raises(BrokenImage) as error:
            source.load(index)
        assert error.value.name == source.name(index)
        return error.value.reason

    assert [reason(0), reason(1)] == ["not an image", "empty file"]
    os.truncate(tmp_path / "x.tar", int(source._places[2, 1]) + 5)
    assert reason(2) == "truncated"
    (tmp_path / "x.tar").unlink()
    assert reason(2) == "missing"


def test_shards_that_are_not_whole_are_refused(shards):
    whole = (shards / "train-000001.tar").read_bytes()
    for keep in (100, 700, 1600, 2100):  # in the first header, its data, a later header, its data
        (shards / "train-000001.tar").write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"train-000001\.tar is (cut off|not a plain tar)") as error:
            TarShards(f"{shards}/*.tar")
        assert ("cut off" in str(error.value)) == (keep > 512)
    garbled = bytearray(whole)
    garbled[1024 + 1 : 1024 + 300] = b"x" * 299  # the second header
    (shards / "train-000001.tar").write_bytes(garbled)
    with pytest.raises(UserError, match="damaged after 1 members"):
        TarShards(f"{shards}/*.tar")


def test_other_useless_shards_are_refused(shards):
    with pytest.raises(UserError, match=r"train-000003\.tar does not exist"):
        TarShards(f"{shards}/train-{{000000..000003}}.tar")
    with pytest.raises(UserError, match=r"val-\*\.tar does not exist"):
        TarShards(f"{shards}/val-*.tar")
    with tarfile.open(shards / "x.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(UserError, match="not a plain tar file"):
        TarShards(shards / "x.tar.gz")
    make_shard(shards / "outer.tar", {"inner.tar": b"", "notes.txt": b""})
    with pytest.raises(UserError, match="no image found in .*outer.tar .*tar files within a tar"):
        TarShards(shards / "outer.tar")


def test_a_tar_without_its_end_mark_is_whole(shards):
    """Some writers leave it away; the last member's padding ends the file."""
    path = shards / "train-000000.tar"
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data + bytes(-len(data) % 512))
    assert levels(TarShards(path)) == [0, 1]


SIZE = b"%011o" % len(picture(3))


def header(name=b"x.png", size=SIZE, kind=b"0", magic=b"ustar\x0000", more=b""):
    block = bytearray(512)
    block[: len(name)], block[100:107], block[124 : 124 + len(size)] = name, b"0000644", size
    block[136:147], block[156:157], block[257 : 257 + len(magic)] = b"0" * 11, kind, magic
    block[345 : 345 + len(more)], block[148:156] = more, b" " * 8
    block[148:156] = b"%06o\x00 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(record: bytes, kind=b"x") -> bytes:
    return header(b"pax", b"%011o" % len(record), kind) + padded(record)


def base256(number: int) -> bytes:
    return (number % (1 << 96) | 1 << 95 if number >= 0 else number % (1 << 96)).to_bytes(12, "big")


IMAGE = header() + padded(picture(3))
HOSTILE = {
    "chain of long names": (header(b"././@LongLink", b"00000000003", b"L", b"ustar  ") + padded(b"ab")) * 3000 + IMAGE,
    "long name of a gigabyte": header(b"././@LongLink", b"%011o" % 2**30, b"L", b"ustar  ") + IMAGE,
    "facts of a gigabyte": header(b"pax", b"%011o" % 2**30, b"x") + IMAGE,
    "pax size huge": pax(b"36 size=99999999999999999999999999\n") + IMAGE,
    "pax size huge, of all": pax(b"36 size=99999999999999999999999999\n", b"g") + IMAGE,
    "pax size negative": pax(b"13 size=-1024\n"[:14]) + IMAGE,
    "pax size negative, to itself": IMAGE + pax(b"14 size=-2048\n") + IMAGE,
    "size negative": header(size=base256(-1024)) + padded(picture(3)),
    "size of 2^80": header(size=base256(2**80)) + padded(picture(3)),
    "sparse map of texts": pax(b"24 GNU.sparse.map=1,b,c\n") + IMAGE,
    "sparse, many": pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")
    + header()
    + padded(b"9" * 18 + b"\n")
    + IMAGE,
    "old sparse without an end": header(kind=b"S", magic=b"ustar  ", more=b"\0" * 137 + b"\1") + b"\1" * 512,
    "pax record longer than it": pax(b"99999999 path=x\n") + IMAGE,
    "pax record of length 0": pax(b"0 path=x\n") + IMAGE,
    "facts for all, without an end": pax(b"20 comment=" + b"y" * 8 + b"\n", b"g") * 2000 + header(size=b"zzzzzzzzzzz"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_skipped_or_refused(tmp_path, name):
    (tmp_path / "x.tar").write_bytes(HOSTILE[name] + IMAGE * 2 + bytes(1024))
    try:
        source = TarShards(tmp_path / "x.tar")
    except UserError as error:
        assert "cut off or damaged" in str(error) or "not a plain tar" in str(error) or "no image" in str(error)
    else:
        assert len(source) <= 4 and source.load(len(source) - 1).shape == (4, 6, 3)


@pytest.mark.parametrize("numbers", ["{0..9999999999}", "{0..9}{000..999}{0..99999999}", "{0..999999999999999999}"])
def test_a_range_without_an_end_stops_at_the_first_that_is_missing(tmp_path, numbers):
    with pytest.raises(UserError, match="does not exist"):
        TarShards(f"{tmp_path}/{numbers}.tar")
