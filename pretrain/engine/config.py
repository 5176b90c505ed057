"""LazyConfig files with command-line overrides; a misspelt key is refused with the nearest real one."""

import difflib
import inspect
from collections.abc import Callable
from numbers import Number
from pathlib import Path
from pydoc import locate

from detectron2.config import LazyConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.errors import UserError


def load_config(path: str | Path, overrides: list[str]) -> DictConfig:
    """Load a LazyConfig file and apply `key=value` overrides.

    A key may be new only where it names an argument of the callable that its section configures.

    Raises:
        UserError: no such file, an override without "=", an unknown key, or a value that cannot be parsed.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such config file; the configs of this project are in configs/")
    cfg = LazyConfig.load(str(path))
    for override in overrides:
        _check_key(cfg, override)
    before = {key: OmegaConf.select(cfg, key) for key in (override.partition("=")[0] for override in overrides)}
    try:
        cfg = LazyConfig.apply_overrides(cfg, overrides)
    except (OmegaConfBaseException, HydraException, ValueError) as error:
        raise UserError(
            f"cannot apply the overrides {overrides}: {error}; a value with special characters needs quotes of its "
            "own: 'key=\"value\"'"
        ) from error
    for key, old in before.items():
        new = OmegaConf.select(cfg, key)
        if isinstance(old, Number) and isinstance(new, str):
            raise UserError(f"{key} is a number ({old}) and cannot be {new!r}")
    return cfg


def _check_key(cfg: DictConfig, override: str) -> None:
    key, equals, _ = override.partition("=")
    key = key.lstrip("+~")
    if not equals and not override.startswith("~"):
        raise UserError(f"{override!r} is not of the form key=value")
    if OmegaConf.select(cfg, key, default=_ABSENT) is not _ABSENT or _is_argument(cfg, key):
        return
    nearest = difflib.get_close_matches(key, _all_keys(cfg), n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise UserError(f"the config has no key {key}{hint}")


_ABSENT = object()


def _is_argument(cfg: DictConfig, key: str) -> bool:
    """Whether `key` is an argument that its section's callable takes but the config does not mention."""
    section, _, name = key.rpartition(".")
    target = OmegaConf.select(cfg, f"{section}._target_" if section else "_target_", default=None)
    target = locate(target) if isinstance(target, str) else target
    return callable(target) and name in _arguments(target)


def _arguments(target: Callable) -> set[str]:
    """Names of a callable's arguments; where a class passes **kwargs on, also those of its base classes."""
    names = set()
    for cls in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if inspect.isclass(cls) and "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return names - {"self"}


def _all_keys(node, prefix: str = "") -> list[str]:
    if not isinstance(node, DictConfig):
        return []
    keys = []
    for name in node:
        if name != "_target_" and not OmegaConf.is_missing(node, name):
            child = node._get_node(name)
            keys += [f"{prefix}{name}", *_all_keys(child, f"{prefix}{name}.")]
    return keys
