import logging

import pytest
from omegaconf import OmegaConf

from pretrain.engine.lazy_config import load_config
from pretrain.engine.saved_config import as_yaml, differences, read_config, warn_of_changes
from pretrain.errors import UserError

CONFIG = "configs/pretrain/cropfield_tiny.py"


@pytest.fixture(autouse=True)
def log_reaches_pytest(monkeypatch):
    monkeypatch.setattr(logging.getLogger("pretrain"), "propagate", True)  # an earlier test's run may have ended that


def test_differences_are_the_keys_whose_values_changed():
    old = OmegaConf.create({"a": {"b": 1, "c": [1, 2]}, "gone": 3, "ref": "${a.b}", "empty": {}})
    new = OmegaConf.create({"a": {"b": 2, "c": [1, 3]}, "new": {"x": None}, "ref": "${a.b}", "empty": {}})
    assert differences(old, new) == {
        "a.b": (1, 2),
        "a.c": ([1, 2], [1, 3]),
        "gone": (3, "(absent)"),
        "new.x": ("(absent)", None),
    }
    assert differences(old, old) == {}


def test_a_saved_config_differs_from_another_in_what_was_overridden(tmp_path, caplog):
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(load_config(CONFIG, ["train.seed=1"])))
    warn_of_changes(path, as_yaml(load_config(CONFIG, ["train.seed=1"])))
    assert not caplog.messages
    warn_of_changes(path, as_yaml(load_config(CONFIG, ["train.seed=2", "optimizer.betas=[0.9,0.95]"])))
    assert caplog.messages == [
        "resumed with a changed config: optimizer.betas: [0.9, 0.999] -> [0.9, 0.95]",
        "resumed with a changed config: train.seed: 1 -> 2",
    ]


def test_a_damaged_config_does_not_stop_a_resume(tmp_path, caplog):
    (tmp_path / "config.yaml").write_text("model: {half")
    with pytest.raises(UserError, match="cannot be read as the config"):
        read_config(tmp_path / "config.yaml")
    warn_of_changes(tmp_path / "config.yaml", "a: 1\n")
    assert "is not known" in caplog.text


def test_a_config_that_is_no_text_is_refused():
    cfg = OmegaConf.create({"a": 1}, flags={"allow_objects": True})
    cfg.a = (n for n in ())  # nothing can write a generator
    with pytest.raises(UserError, match="cannot be saved as YAML"):
        as_yaml(cfg)
