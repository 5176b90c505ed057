"""LazyConfig files with overrides from the command line, and a sentence for every mistake in them."""

import builtins
import difflib
import re
import traceback
from collections.abc import Iterator
from numbers import Number
from pathlib import Path

from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from pretrain.engine.argument_types import arguments, fits
from pretrain.engine.config_values import check_config, hint_at, references, target_of, value_at
from pretrain.engine.targets import TARGETS
from pretrain.engine.yaml_config import plain_part, read_config
from pretrain.errors import UserError, reason

QUOTED = ('"', "'", "[")  # text that begins so is read as hydra reads it
YAML = (".yaml", ".yml")


def load_config(path: str | Path, overrides: list[str], form: type | None = None) -> DictConfig:
    """Read a LazyConfig file, apply `key=value` overrides, and check every value: see `check_config`.

    Stricter than `LazyConfig.apply_overrides`, which takes any key: an unknown one would change nothing, silently. And
    where the config holds text, what stands behind `=` is taken as it is, without quotes: a path may have commas,
    parentheses and apostrophes, or look like a number.

    Args:
        form: what lies outside of calls, `pretrain.engine.forms.Pretraining` or another tool's; None checks only calls.

    Raises:
        UserError: no such file, one that cannot be read, an override that is not `key=value`, an unknown key, a value
            that its reader would not take.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no config file {path}; check the path")
    cfg = load_yaml(path) if Path(path).suffix in YAML else read_file(str(path))
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            advice = "options stand before the overrides" if override.startswith("-") else "write key=value"
            raise UserError(f"cannot read the override {override!r}; {advice}")
        check_key(cfg, key)
        check_read(cfg, key, form)
        before = _select(cfg, key)
        try:
            hint = hint_at(cfg, key)
            _apply(cfg, override, is_text=_holds_text(hint, before))
        except Exception as error:  # hydra's parser has a family of its own
            raise UserError(
                f"cannot read the override {override!r} ({reason(error)}); quote its value: '{key}=\"...\"'"
            ) from None
        after = _select(cfg, key)
        number = isinstance(before, Number) and not isinstance(before, bool)
        if hint is None and number and not isinstance(after, Number | None):  # `check_config` knows those with a type
            raise UserError(f"{key} is a number ({before}) and not {after!r}; give a number")
    check_config(cfg, form)
    return cfg


def read_file(path: str) -> DictConfig:
    """The config that a LazyConfig file describes. Raises UserError with the line where Python stops."""
    import_ = builtins.__import__
    try:
        return LazyConfig.load(path)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{_where_reading_failed(error, path)}; correct the config file") from error
    finally:
        builtins.__import__ = import_  # Detectron2 leaves its own behind when a file fails


def _where_reading_failed(error: Exception, path: str) -> str:
    """The file and line of a config at which reading it failed, and why."""
    if isinstance(error, SyntaxError) and isinstance(error.__cause__, SyntaxError):  # Detectron2's has no line
        file = str(error).removeprefix("Config file ").removesuffix(" has syntax error!")
        line = f", line {error.__cause__.lineno}" if error.__cause__.lineno else ""
        return f"{file}{line}: {error.__cause__.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    inside = [frame for frame in frames if "site-packages" not in frame.filename]
    if not inside or not inside[-1].filename.endswith(".py"):
        return f"{path}: {reason(error)}"
    return f"{inside[-1].filename}, line {inside[-1].lineno}: {reason(error)} in {inside[-1].line!r}"


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
    """Instantiate the config's `key`; an error in any part of it becomes a `UserError` that names that part."""
    return make(OmegaConf.select(cfg, key), key, "correct it in the config or on the command line")


def make(node, key: str, advice: str):
    """Instantiate `node`; an error becomes a `UserError` that names the part below `key` and ends with `advice`."""
    try:
        return instantiate(node)
    except Exception as error:  # values of any kind meet code of any kind
        where, error = _innermost_failure(node, key, error)
        if isinstance(error, UserError):
            message = str(error)
            raise (error if f"{where.partition('.')[0]}." in message else UserError(f"{where}: {message}")) from error
        raise UserError(f"{where}: {reason(error)}; {advice}") from error


def _innermost_failure(node, key: str, error: Exception) -> tuple[str, Exception]:
    """Key and error of the innermost call that fails on its own."""
    names = range(len(node)) if isinstance(node, ListConfig) else node if isinstance(node, DictConfig) else ()
    for name in names:
        child = None
        try:
            child = node[name]
            if isinstance(child, DictConfig | ListConfig):
                instantiate(child)
        except Exception as inner:
            return _innermost_failure(child, _name_of(node, key, name), inner)
    return key, error


def _name_of(node: DictConfig | ListConfig, key: str, name: str | int) -> str:
    """Key of a part of `node`, which is at `key`: where it is written, if it stands here as ${that.key}."""
    raw = OmegaConf.to_container(node, resolve=False)[name]
    reference = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
    return reference[1] if reference else f"{key}.{name}"


def check_key(cfg: DictConfig, key: str) -> None:
    """Raise UserError unless `key` is in the config, or is an argument of the call that it would be added to."""
    node, inside_call, prefix = cfg, False, ""
    for part in key.split("."):
        if isinstance(node, ListConfig) and part.isdecimal() and int(part) < len(node):
            node = value_at(node, int(part), f"{prefix}{part}")
            prefix += f"{part}."
            continue
        if not isinstance(node, DictConfig):
            break
        if part in node.keys():  # `in node` would leave out what has no value
            inside_call = inside_call or "_target_" in node
            node = value_at(node, part, f"{prefix}{part}")
            prefix += f"{part}."
        elif "_target_" in node:
            if part in arguments(target_of(node, prefix))[0]:
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


def check_read(cfg: DictConfig, key: str, form: type | None) -> None:
    """Raise UserError if `key` belongs to a variable of the config file, of which the model has a copy."""
    top = key.partition(".")[0]
    if form and top not in form.__annotations__ and top not in references(cfg):
        raise UserError(
            f"nothing reads {key}: {top} is a variable of the config file; override the keys that it went into"
        )


def _apply(cfg: DictConfig, override: str, is_text: bool) -> None:
    key, _, text = override.partition("=")
    if is_text and text != "null" and not text.startswith(QUOTED):
        OmegaConf.update(cfg, key, text)
    else:
        if text.startswith("[") and isinstance(_select(cfg, key), DictConfig):  # a list instead of a call
            OmegaConf.update(cfg, key, None, merge=False)
        LazyConfig.apply_overrides(cfg, [override])


def _holds_text(hint, before) -> bool:
    """Whether `before` is text, or what has the type `hint` must be text and not a number."""
    return isinstance(before, str) or (hint is not None and fits("text", hint) and not fits(1, hint))


def _select(cfg: DictConfig, key: str):
    try:
        return OmegaConf.select(cfg, key, throw_on_missing=False)
    except Exception:  # an interpolation of nothing, told by `check_config`
        return None


def _keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in cfg:
        yield f"{prefix}{name}"
        node = cfg._get_node(name)  # interpolations stay unresolved
        if isinstance(node, DictConfig) and not node._is_interpolation():
            yield from _keys(node, f"{prefix}{name}.")
