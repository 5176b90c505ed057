import sys
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from pretrain.engine.writers import WandbWriter
from pretrain.errors import UserError


class FakeWandb:
    """What of wandb the writer uses, kept in lists."""

    def __init__(self):
        self.logged, self.options, self.finished = [], None, False

    def init(self, **options):
        self.options = options
        return SimpleNamespace(log=lambda values, step: self.logged.append((step, values)), finish=self.finish)

    def finish(self):
        self.finished = True

    def Image(self, array):  # noqa: N802 (wandb's name)
        return array.shape


def test_wandb_gets_new_scalars_and_pictures_in_the_order_of_their_steps(monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    writer = WandbWriter(project="fields", mode="offline")
    with EventStorage(5) as storage:
        storage.put_scalar("loss", 2.0)
        storage.iter = 4
        storage.put_scalar("monitor/feature_std", 0.5, smoothing_hint=False)
        storage.put_image("pictures/field", np.zeros((3, 4, 8), dtype=np.uint8))
        storage.iter = 6
        writer.write()
        storage.clear_images()  # as TensorBoard's writer does
        storage.put_scalar("loss", 4.0)
        writer.write()
        writer.write()
    writer.close()
    assert wandb.options == {"project": "fields", "mode": "offline"} and wandb.finished
    assert wandb.logged == [
        (4, {"monitor/feature_std": 0.5, "pictures/field": (4, 8, 3)}),
        (5, {"loss": 2.0}),
        (6, {"loss": 3.0}),  # the median of the window
    ]


def test_each_scalar_is_sent_once_at_its_iteration(monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    writer = WandbWriter(config={"lr": 1}, project="p")
    assert wandb.options == {"config": {"lr": 1}, "project": "p"}
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
    assert wandb.logged == [(3, {"loss": 2.0}), (4, {"AP": 50.0}), (5, {"loss": 1.0})] and wandb.finished


def test_without_wandb_a_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        WandbWriter(project="fields")
