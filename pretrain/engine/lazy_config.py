"""LazyConfig files with overrides from the command line, and a sentence for every mistake in them."""

import difflib
import inspect
from collections.abc import Iterator
from numbers import Number
from pathlib import Path

from detectron2.config import LazyConfig, instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from pretrain.engine.targets import TARGETS
from pretrain.engine.yaml_config import plain_part, read_config
from pretrain.errors import UserError

YAML = (".yaml", ".yml")


def load_config(path: str | Path, overrides: list[str]) -> DictConfig:
    """Read a LazyConfig file and apply `key=value` overrides.

    Stricter than `LazyConfig.apply_overrides`, which takes any key: an unknown one would change nothing, silently.

    Raises:
        UserError: no such file, an override that is not `key=value`, an unknown key, text where a number stood.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no config file {path}; check the path")
    cfg = load_yaml(path) if Path(path).suffix in YAML else LazyConfig.load(str(path))
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise UserError(f"cannot read the override {override!r}; write key=value")
        check_key(cfg, key)
        before = OmegaConf.select(cfg, key, throw_on_missing=False)
        try:
            LazyConfig.apply_overrides(cfg, [override])
        except Exception as error:  # hydra's parser has a family of its own
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot read the override {override!r} ({reason}); quote its value: '{key}=\"...\"'"
            ) from None
        after = OmegaConf.select(cfg, key, throw_on_missing=False)
        if isinstance(before, Number) and not isinstance(after, Number | None):
            raise UserError(f"{key} is a number ({before}) and not {after!r}; give a number")
    return cfg


def load_yaml(path: str | Path) -> DictConfig:
    """A config in YAML, which may be anybody's, where `LazyConfig.load` would run the code in it.

    Raises:
        UserError: it is not plain (`read_config`), or would build what no config of this repository builds.
    """
    cfg = read_config(path)
    for key in cfg:
        plain_part(cfg, key, TARGETS, path)
    cfg._set_flag("allow_objects", True)  # as LazyConfig's: the optimizer's arguments get the model
    return cfg


def build(cfg: DictConfig, key: str):
    """What the config says at `key`, made; whatever a part of it refuses becomes a `UserError` that names the key."""
    try:
        return instantiate(OmegaConf.select(cfg, key))
    except (TypeError, ValueError, ArithmeticError, AssertionError, LookupError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{key}: {reason}; correct it in the config or on the command line") from error


def check_key(cfg: DictConfig, key: str) -> None:
    """Raise UserError if nothing reads `key`: neither in the config, nor an argument of the call it would go to."""
    node, inside_call = cfg, False
    for part in key.split("."):
        if isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            continue
        if not isinstance(node, DictConfig):
            break
        if part in node:
            inside_call = inside_call or "_target_" in node
            node = node[part]
        elif "_target_" in node:
            if part in _arguments(node["_target_"]):
                return
            break
        elif inside_call:
            return  # a free dictionary that is an argument, such as optimizer.params.overrides
        else:
            break
    else:
        return
    close = difflib.get_close_matches(key, list(_keys(cfg)), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "see the config file for its keys"
    raise UserError(f"the config has no key {key}; {hint}")


def _arguments(target) -> set[str]:
    """Argument names of a callable; where a class passes **kwargs on, also those of its base classes."""
    target = locate(target) if isinstance(target, str) else target
    names = set()
    for cls in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if cls is object or (inspect.isclass(cls) and "__init__" not in vars(cls)):
            continue
        parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def _keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in cfg:
        yield prefix + name
        node = cfg._get_node(name)  # interpolations stay unresolved
        if isinstance(node, DictConfig) and not node._is_interpolation():
            yield from _keys(node, f"{prefix}{name}.")
