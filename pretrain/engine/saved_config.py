"""The config.yaml beside a run's checkpoints, and what a resumed run changes in it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from pretrain.engine.yaml_config import read_config, without_tags
from pretrain.errors import UserError

ABSENT = "(absent)"

logger = logging.getLogger(__name__)


def as_yaml(cfg: DictConfig) -> str:
    """The text that `LazyConfig.save` writes: every value, interpolations unresolved.

    Raises:
        UserError: the config cannot be written as text, or there is no room for temporary files.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        LazyConfig.save(cfg, str(file))
        text = file.read_text() if file.exists() else ""
    if not text.endswith("\n"):  # LazyConfig logs what goes wrong in writing, and goes on
        raise UserError("the config cannot be saved as YAML: the reason is in the log above; repair it and start again")
    return text


def warn_of_changes(path: Path, config: str) -> None:
    """Log a line for each key in which `config` differs from the YAML at `path`: "optimizer.lr: 0.002 -> 0.001"."""
    try:
        old = read_config(path, untagged=True)
    except UserError as error:
        logger.warning("resumed, but what changed in the config is not known: %s", error)
        return
    for key, (before, after) in differences(old, OmegaConf.create(without_tags(config))).items():
        logger.warning("resumed with a changed config: %s: %s -> %s", key, before, after)


def differences(old: DictConfig, new: DictConfig) -> dict[str, tuple]:
    """Keys with other values in `new` than in `old`, dotted: {"optimizer.lr": (0.002, 0.001)}."""
    # Interpolations unresolved, so that one change is reported once.
    before, after = (dict(_leaves(OmegaConf.to_container(cfg, resolve=False))) for cfg in (old, new))
    pairs = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in before | after}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


def _leaves(node, key: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys of nested dictionaries with their values, lists whole."""
    if isinstance(node, dict) and node:
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}".lstrip("."))
    else:
        yield key, node
