import errno
import json
import os
import random
import resource
import zipfile
from contextlib import contextmanager

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pretrain.errors import UserError
from pretrain.files import (
    CHECKSUM,
    read_tensors,
    read_torch_file,
    remove_drafts,
    replacing,
    write_json,
    write_text,
    write_torch_file,
)
from pretrain.models.weights import write_backbone


@contextmanager
def room_for(size: int):
    """No file of this process can grow beyond `size` bytes: writers fail midway, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_checkpoint(path):
    write_torch_file(path, {"model": {"w": torch.ones(100_000)}})


def write_pth(path):
    write_backbone(path.with_suffix(".pth"), {"w": torch.ones(100_000)}, {})


def write_safetensors(path):
    write_backbone(path.with_suffix(".safetensors"), {"w": torch.ones(100_000)}, {})


def write_long_json(path):
    write_json(path, list(range(100_000)))


@pytest.mark.parametrize("write", [write_checkpoint, write_pth, write_safetensors, write_long_json])
def test_a_write_cut_short_leaves_the_old_file_and_says_why(tmp_path, write):
    write(tmp_path / "file")
    (path,) = tmp_path.iterdir()
    old = path.read_bytes()
    with room_for(200_000), pytest.raises(UserError, match=rf"cannot write {path}: File too large.*untouched"):
        write(tmp_path / "file")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == old


def test_a_full_disk_is_named_though_a_library_hides_it(tmp_path):
    with pytest.raises(UserError, match="No space left on device"), replacing(tmp_path / "file") as draft:
        draft.write_text("half")
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 0") from error
    assert not list(tmp_path.iterdir())


def test_an_interrupt_in_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_is_written_is_read_again(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"é": [1, None]})
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == {"é": [1, None]}
    write_torch_file(tmp_path / "a.pth", {"w": torch.arange(3)})
    assert read_torch_file(tmp_path / "a.pth")["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("write", [write_checkpoint, write_pth, write_safetensors, write_long_json])
def test_files_are_for_whom_the_umask_says(tmp_path, write):
    former = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(former)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o640


def test_only_drafts_are_removed(tmp_path):
    with pytest.raises(UserError), replacing(tmp_path / "last.pth") as draft:
        draft.write_text("half")
        (tmp_path / "of a killed process").write_text(draft.name)
        raise OSError(errno.EIO, "killed")
    (tmp_path / (tmp_path / "of a killed process").read_text()).write_text("half")
    (tmp_path / "last.pth").write_text("whole")
    (tmp_path / ".hidden").write_text("the user's")
    remove_drafts(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"last.pth", ".hidden", "of a killed process"}
    remove_drafts(tmp_path / "absent")


def _compressed(path):
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _nested(depth: int) -> dict:
    inner = {"a": torch.zeros(1)}
    for _ in range(depth):
        inner = {"a": inner, "b": inner}
    return inner


BOMBS = {
    "compressed archive": _compressed,
    "one number as many": lambda path: torch.save({"a": torch.zeros(1).expand(10**13)}, path),
    "sparse": lambda path: torch.save({"a": torch.sparse_coo_tensor([[0]], [1.0], (10**12,))}, path),
    "no data": lambda path: torch.save({"a": torch.empty(10**12, device="meta")}, path),
    "dictionaries in each other": lambda path: torch.save(_nested(40), path),
    "one storage many times": lambda path: torch.save(dict.fromkeys(map(str, range(1000)), torch.zeros(10_000)), path),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_takes_no_large_memory(tmp_path, name):
    BOMBS[name](tmp_path / "x.pth")
    for read in (read_torch_file, read_tensors):
        with pytest.raises(UserError, match=r"x\.pth is truncated or no checkpoint"):
            read(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, suffix):
    tensors = {"w": torch.randn(9, 7), "half": torch.randn(5).bfloat16(), "n": torch.tensor(3)}
    path = tmp_path / f"file{suffix}"
    write_backbone(path, tensors, {"num_heads": "3"})
    good, (right, facts) = path.read_bytes(), read_tensors(path)
    assert facts["num_heads"] == "3"
    draw, noticed = random.Random(0), 0
    for _ in range(400):
        bad, place = bytearray(good), draw.randrange(8 * len(good))
        bad[place // 8] ^= 1 << place % 8
        path.write_bytes(bad)
        try:
            found, metadata = read_tensors(path)
        except UserError:
            noticed += 1
            continue
        assert facts.items() <= metadata.items() and all(
            torch.equal(found[name], value) for name, value in right.items()
        )
    assert noticed > 100  # the rest fell into padding


def test_a_record_marked_as_a_folder_is_noticed(tmp_path):
    """Torch gives whatever was in memory for its tensor."""
    torch.save({"w": torch.ones(99)}, path := tmp_path / "x.pth")
    good, entry = path.read_bytes(), b"PK\1\2"  # of the archive's directory; its attributes stand 38 bytes on
    for part in range(good.count(entry)):
        place = len(entry.join(good.split(entry)[: part + 1])) + 38
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        with pytest.raises(UserError, match=r"x\.pth is truncated or no checkpoint .* is marked as a folder"):
            read_torch_file(path)


def test_files_without_checksums_load(tmp_path):
    state = {"model": {"w": torch.ones(3)}}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "none.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    save_file(state["model"], tmp_path / "none.safetensors", {"depth": "1"})
    for name in ("old.pth", "none.pth", "none.safetensors"):
        assert read_tensors(tmp_path / name)[0].popitem()[1].tolist() == [1, 1, 1]


def test_a_safetensors_file_that_was_changed_says_so(tmp_path):
    path = tmp_path / "backbone.safetensors"
    write_backbone(path, {"w": torch.ones(3)}, {"depth": "1"})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"w": torch.zeros(3)}, path, metadata)
    with pytest.raises(UserError, match=f"does not fit its checksum.*or take {CHECKSUM} out of its metadata"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["n" * 251 + ".jpg", "\u732b" * 84 + ".md"])
def test_a_name_as_long_as_names_can_be_is_written(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]
