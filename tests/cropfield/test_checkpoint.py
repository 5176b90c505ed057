"""A detector's --resume runs no code, whatever lies in its folder."""

import os
import pickle

import pytest
import torch
from torch import nn

from cropfield.checkpoint import AtomicCheckpointer
from pretrain.errors import UserError


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("PWNED",)


class Trainer:
    """As far as a checkpoint goes."""

    def __init__(self, iteration: int = 0):
        self.iteration = iteration

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]


@pytest.fixture
def checkpointer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = AtomicCheckpointer(nn.Linear(2, 1), str(tmp_path / "run"), trainer=Trainer())
    (tmp_path / "run").mkdir()
    yield made
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "model.pyth", "model"])
@pytest.mark.parametrize("write", [pickle.dump, torch.save, lambda data, file: pickle.dump(data, file, protocol=0)])
def test_no_file_is_unpickled(checkpointer, tmp_path, name, write):
    with open(tmp_path / "run" / name, "wb") as file:
        write({"model": {"weight": Hostile()}, "__author__": "x"}, file)
    (tmp_path / "run" / "last_checkpoint").write_text(name)
    with pytest.raises(UserError, match="not a file of tensors only|truncated or no checkpoint"):
        checkpointer.resume()


@pytest.mark.parametrize(
    "text",
    [
        "../model.pth",
        "/tmp/model.pth",
        "https://example.org/model.pth",
        "detectron2://a/b.pkl",
        "a/b.pth",
        "",
        "..",
        "\0.pth",
    ]
    + ["model.pkl", "model.pth?matching_heuristics=True", "a.pth\nb.pth"],
)
def test_the_last_checkpoint_lies_beside_its_pointer(checkpointer, tmp_path, text):
    (tmp_path / "run" / "last_checkpoint").write_text(text)
    with pytest.raises(UserError, match="not in that folder"):
        checkpointer.resume()


@pytest.mark.parametrize(
    "state", [[], {"model": None}, {"model": {"weight": 3}}, {"model": {}, "trainer": 3}, {"model": {1: torch.ones(1)}}]
)
def test_a_state_of_another_form_is_the_users_to_fix(checkpointer, tmp_path, state):
    torch.save(state, tmp_path / "run" / "model.pth")
    (tmp_path / "run" / "last_checkpoint").write_text("model.pth")
    with pytest.raises(UserError, match=r"model\.pth"):
        checkpointer.resume()


def test_what_was_saved_is_resumed(checkpointer):
    with pytest.raises(UserError, match="has no checkpoint to resume from"):
        checkpointer.resume()
    checkpointer.parts["trainer"].iteration = 4
    checkpointer.save("model_final", iteration=4)
    again = AtomicCheckpointer(nn.Linear(2, 1), checkpointer.save_dir, trainer=Trainer())
    again.resume()
    assert again.parts["trainer"].iteration == 4
    torch.testing.assert_close(again.model.weight, checkpointer.model.weight)
