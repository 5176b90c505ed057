import math
import os
import pickle
from types import SimpleNamespace

import pytest
import torch

from pretrain.engine.checkpoint import (
    PeriodicCheckpoint,
    load_checkpoint,
    load_optimizer,
    restore,
    resume_step,
    training_state,
)
from pretrain.errors import UserError
from pretrain.files import write_torch_file


class Method(torch.nn.Linear):
    backbone = SimpleNamespace(metadata={"depth": "1"})


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
    with pytest.raises(UserError, match="is a folder, not a checkpoint; give one of its files"):
        load_checkpoint(tmp_path)
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


def test_a_kept_file_is_never_written_over(tmp_path, caplog):
    model, optimizer, state = trained(tmp_path / "last.pth")
    hook = PeriodicCheckpoint(tmp_path, model, optimizer, period=2, keep_period=2, batch_size=2)
    hook.save(2)
    (tmp_path / "step_0000004.pth").write_bytes(b"precious")
    hook.save(4)
    assert (tmp_path / "step_0000004.pth").read_bytes() == b"precious" and "step_0000004.pth exists" in caplog.text
    assert load_checkpoint(tmp_path / "last.pth")["iteration"] == 4
    with pytest.raises(UserError, match="step_0000002.pth: counts steps of another batch size.* at 8 images .* at 1;"):
        restore(tmp_path / "last.pth", model, optimizer, batch_size=8)
    (tmp_path / "step_0000002.pth").unlink()
    assert restore(tmp_path / "last.pth", model, optimizer, batch_size=2) == 4
    assert restore(tmp_path / "last.pth", model, optimizer, batch_size=1) == 8


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


def trained(path) -> tuple[torch.nn.Module, torch.optim.Optimizer, dict]:
    """A model after a step, its optimizer, and the state that was written to `path`."""
    model = Method(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = training_state(model, optimizer, 1)
    write_torch_file(path, state)
    return model, optimizer, state


def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path):
    model, optimizer, _ = trained(tmp_path / "last.pth")
    hook = PeriodicCheckpoint(tmp_path, model, optimizer, period=1)
    good = (tmp_path / "last.pth").read_bytes()
    for tensor, name in ((model.bias, "model.bias"), (optimizer.state[model.weight]["exp_avg_sq"], "exp_avg_sq")):
        former = tensor.detach().clone()
        with torch.no_grad():
            tensor.view(-1)[1] = float("inf")
        with pytest.raises(UserError, match=f"after 2 steps .*{name} is not finite .*from before are good"):
            hook.save(2)
        with torch.no_grad():
            tensor.copy_(former)
        assert (tmp_path / "last.pth").read_bytes() == good
    hook.save(2)
    assert load_checkpoint(tmp_path / "last.pth")["iteration"] == 2


CHANGES = {
    "iteration": [-1, None, "3", 2.5, True, 2**60],
    "model": [None, [], {"weight": 1}],
    "optimizer": [None, {}, {"state": {}, "param_groups": None}, {"state": {9: {}}, "param_groups": []}],
    "rng": [None, [], [None], [{}], [{"cpu": torch.zeros(3)}], {"cpu": 1}],
}


@pytest.mark.parametrize("key, value", [(key, value) for key in CHANGES for value in CHANGES[key]])
def test_a_state_of_nonsense_is_a_sentence(tmp_path, key, value):
    path = tmp_path / "last.pth"
    model, optimizer, state = trained(path)
    write_torch_file(path, state | {key: value})
    if key == "rng" and value == []:
        return  # of no process: drawn anew, and said so
    with pytest.raises(UserError, match="last.pth"):
        restore(path, model, optimizer)


@pytest.mark.parametrize("kind", "AdamW SGD RMSprop Adagrad Adadelta NAdam RAdam ASGD Rprop Adamax Adafactor".split())
def test_what_torchs_optimizers_write_is_read_again(kind):
    model = torch.nn.Linear(3, 2)
    make = getattr(torch.optim, kind)
    written = make(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    written.step()
    read = make(model.parameters(), lr=0.1)
    load_optimizer(read, written.state_dict())
    assert str(read.state_dict()["state"]) == str(written.state_dict()["state"])


def test_the_state_of_another_optimizer_is_a_sentence(tmp_path):
    """Fused steps would read past the end of a tensor of another shape."""
    path = tmp_path / "last.pth"
    model, optimizer, state = trained(path)
    with pytest.raises(UserError, match="another kind of optimizer"):
        restore(path, model, torch.optim.SGD(model.parameters(), lr=1))
    with pytest.raises(UserError, match="other groups of parameters"):
        restore(path, model, torch.optim.AdamW([{"params": [p]} for p in model.parameters()]))
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(5)
    write_torch_file(path, state)
    with pytest.raises(UserError, match=r"exp_avg of parameter 0 in its optimizer does not fit \(2, 2\)"):
        restore(path, model, optimizer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.tensor(1.0)), "exp_avg of parameter 0"),
        (lambda state: state["optimizer"]["state"][0].update(step=torch.zeros(2)), "step of parameter 0"),
        (lambda state: state["optimizer"]["state"][0]["exp_avg_sq"].fill_(math.inf), "exp_avg_sq .* is not finite"),
        (
            lambda state: state["optimizer"]["param_groups"][0].update(weight_decay=(1, 2)),
            "weight_decay of its optimizer",
        ),
        (lambda state: state["optimizer"]["param_groups"][0].update(betas=[0.9]), "betas of its optimizer"),
        (lambda state: state["optimizer"]["param_groups"][0].update(eps=math.nan), "eps of its optimizer is nan"),
        (lambda state: state["model"]["bias"].fill_(math.nan), "bias is not finite"),
        (
            lambda state: state["model"].update(bias=state["model"]["bias"].half()),
            "bias is float16 in the file and float32 in the model",
        ),
        (lambda state: state["optimizer"]["state"][0].pop("exp_avg_sq"), "does not know the same of all parameters"),
        (
            lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.ones(2, 2).bool()),
            "exp_avg of parameter 0",
        ),
        (lambda state: state["optimizer"]["state"][0]["exp_avg_sq"].fill_(-1), "exp_avg_sq of parameter 0"),
    ],
)
def test_a_state_on_which_the_first_step_would_stumble_is_refused(tmp_path, change, words):
    path = tmp_path / "last.pth"
    model, optimizer, state = trained(path)
    change(state)
    torch.save(state, path)
    with pytest.raises(UserError, match=words):
        restore(path, model, optimizer)


@pytest.mark.parametrize(
    "done, saved, batch_size, start", [(6, 2, 2, 6), (6, 2, 4, 3), (3, 2, 4, 1), (1, 2, 8, 0), (3, 4, 2, 6)]
)
def test_what_was_seen_counts_in_images(done, saved, batch_size, start):
    assert resume_step("last.pth", done, saved, batch_size, total=9) == start
    assert 0 <= done * saved - start * batch_size < batch_size  # nothing left out, less than a batch twice


@pytest.mark.parametrize("done, saved, batch_size", [(4, 2, 1), (8, 1, 2), (5, 2, 2), (5, None, 2)])
def test_a_change_that_leaves_no_step_is_refused(done, saved, batch_size):
    with pytest.raises(UserError, match="last.pth: nothing is left to train.*raise train.max_iter"):
        resume_step("last.pth", done, saved, batch_size, total=4)


def test_a_finished_run_is_none_of_it_but_it_is_said(caplog):
    assert resume_step("last.pth", 4, 2, 2, total=4) == 4
    assert "all 4 steps were done before" in caplog.text


@pytest.mark.parametrize("size", [0, -1, "4", 2.0, True])
def test_nonsense_is_no_batch_size(tmp_path, size):
    model, optimizer, state = trained(tmp_path / "last.pth")
    write_torch_file(tmp_path / "last.pth", state | {"batch_size": size})
    with pytest.raises(UserError, match="cannot be resumed: its batch size is"):
        restore(tmp_path / "last.pth", model, optimizer, 4, 9)
