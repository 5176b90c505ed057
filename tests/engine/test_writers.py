import sys
from types import SimpleNamespace

import pytest

from pretrain.engine.writers import mirror_to_wandb
from pretrain.errors import UserError


def test_wandb_mirrors_tensorboard(monkeypatch):
    options = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=options.update))
    mirror_to_wandb(project="fields", mode="offline")
    assert options == {"sync_tensorboard": True, "project": "fields", "mode": "offline"}


def test_without_wandb_a_sentence_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="cannot be imported .*wandb.*pip install wandb"):
        mirror_to_wandb(project="fields")
