import os
import pickle
from types import SimpleNamespace

import pytest
import torch

from pretrain.engine.checkpoint import PeriodicCheckpoint, load_checkpoint, restore
from pretrain.errors import UserError
from pretrain.files import write_torch_file


class Method(torch.nn.Linear):
    backbone = SimpleNamespace(facts={"depth": "1"})


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile-code-ran",)


def test_bad_files_are_refused_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = tmp_path / "good.pth"
    write_torch_file(good, {"model": {"w": torch.zeros(1000)}})
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


def test_a_model_without_its_training_is_not_resumed(tmp_path):
    model = Method(2, 2)
    write_torch_file(tmp_path / "export.pth", {"model": model.state_dict(), "metadata": {}})
    with pytest.raises(UserError, match="not the state of its training"):
        restore(tmp_path / "export.pth", model, torch.optim.AdamW(model.parameters()))


def test_checkpoints_stay_at_their_period_and_the_last_one_is_always_there(tmp_path):
    model = Method(2, 2)
    hook = PeriodicCheckpoint(tmp_path, model, torch.optim.AdamW(model.parameters()), period=2, keep_period=3)
    hook.trainer = SimpleNamespace(iter=0, max_iter=7)
    saved = []
    for hook.trainer.iter in range(7):
        with torch.no_grad():
            model.bias.fill_(hook.trainer.iter + 1)
        hook.after_step()
        saved.append(load_checkpoint(tmp_path / "last.pth")["iteration"] if hook.trainer.iter else None)
    assert saved == [None, 2, 3, 4, 4, 6, 7]
    assert sorted(os.listdir(tmp_path)) == ["last.pth", "step_0000003.pth", "step_0000006.pth"]
    kept = load_checkpoint(tmp_path / "step_0000003.pth")
    assert kept["iteration"] == 3 and kept["model"]["bias"].tolist() == [3, 3]


def test_one_step_is_saved_once(tmp_path, monkeypatch):
    """As when a signal comes in a step that is saved anyway."""
    model = Method(2, 2)
    hook = PeriodicCheckpoint(tmp_path, model, torch.optim.AdamW(model.parameters()), period=1)
    hook.trainer = SimpleNamespace(iter=4, max_iter=9)
    hook.after_step()
    written = (tmp_path / "last.pth").stat().st_ino
    hook.save(5)
    assert (tmp_path / "last.pth").stat().st_ino == written
    hook.save(6)
    assert (tmp_path / "last.pth").stat().st_ino != written
