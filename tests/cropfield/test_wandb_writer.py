"""Scalars on their way to Weights & Biases; the service itself is replaced by a list."""

import sys
from types import SimpleNamespace

import pytest
from cropfield.wandb_writer import WandbWriter
from detectron2.utils.events import EventStorage

from pretrain.errors import UserError


class Run:
    def __init__(self, settings: dict):
        self.settings, self.sent, self.finished = settings, [], False

    def log(self, values: dict, step: int) -> None:
        self.sent.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_each_scalar_is_sent_once_at_its_iteration(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **settings: Run(settings)))
    writer = WandbWriter({"lr": 1}, project="p")
    assert writer.run.settings == {"config": {"lr": 1}, "project": "p"}
    with EventStorage(3) as storage:
        storage.put_scalar("loss", 2.0, smoothing_hint=False)
        storage.step()
        storage.put_scalar("AP", 50.0, smoothing_hint=False)
        writer.write()
        writer.write()
        storage.step()
        storage.put_scalar("loss", 1.0, smoothing_hint=False)
        writer.write()
    writer.close()
    assert writer.run.sent == [(3, {"loss": 2.0}), (4, {"AP": 50.0}), (5, {"loss": 1.0})] and writer.run.finished


def test_without_wandb_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        WandbWriter({})
