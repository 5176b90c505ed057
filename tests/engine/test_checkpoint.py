import os
import pickle

import pytest
import torch

from pretrain.engine.checkpoint import load_checkpoint, save_checkpoint
from pretrain.errors import UserError


def test_save_and_load(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"model": {"w": torch.arange(3)}, "iteration": 7})
    state = load_checkpoint(path)
    assert state["iteration"] == 7 and state["model"]["w"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["last.pth"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"model": {}, "iteration": 1})

    def full_disk(state, path):
        path.write_bytes(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match="No space left.*untouched"):
        save_checkpoint(path, {"model": {}, "iteration": 2})
    assert load_checkpoint(path)["iteration"] == 1
    assert os.listdir(tmp_path) == ["last.pth"]


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile-code-ran",)


def test_bad_files_are_refused_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = tmp_path / "good.pth"
    save_checkpoint(good, {"model": {"w": torch.zeros(1000)}})
    (tmp_path / "truncated.pth").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save({"model": Hostile()}, tmp_path / "hostile.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Hostile()))
    torch.save({"weights": {}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "missing.pth")
    with pytest.raises(UserError, match="holds no training state"):
        load_checkpoint(tmp_path / "other.pth")
    with pytest.raises(UserError, match="truncated"):
        load_checkpoint(tmp_path / "truncated.pth")
    for name in ("text.pth", "hostile.pth", "pickle.pth"):
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "hostile-code-ran").exists()
