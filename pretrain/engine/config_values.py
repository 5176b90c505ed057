"""Whether the values of a config can be what their readers take: one pass over all of it, before anything is built.

A call (`L(target)(...)`) is held against its target's signature: names, types, and the ranges of `pretrain.ranges`;
an argument without a type has that of its default. What lies outside of calls, such as `train`, is held against a
*form*: a `TypedDict`, of which nested ones describe nested keys.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable
from typing import Any, Required, get_args, get_origin, get_type_hints, is_typeddict

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.engine.argument_types import CALL, arguments, fits, offending, words
from pretrain.errors import UserError, in_a_line


def check_config(cfg: DictConfig, form: type | None = None) -> None:
    """Hold every value of `cfg` against its reader, and what lies outside of calls against `form`.

    Args:
        form: what it says of a call's argument comes before the call's own type: optimizer.lr may be null where a rule
            fills it in. Without a form nothing is refused for being null.

    Raises:
        UserError: for the first value that cannot be; it names the key.
    """
    checked, names = set(), list(cfg)
    if form:  # a file's other variables, such as a config that it starts from, are nobody's
        referenced = references(cfg)
        _check_form(cfg, form, "", referenced, checked)
        names = [name for name in cfg if name in referenced | get_type_hints(form).keys()]
    _check_node(cfg, "", checked, form is None, names)


def value_at(node: DictConfig | ListConfig, name: str | int, path: str):
    """`node[name]`, interpolations resolved. Raises UserError where they cannot be."""
    try:
        return node[name]
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        raw = OmegaConf.to_container(node, resolve=False)[name]
        if cause := _no_container(node, str(raw)):
            raise UserError(f"{cause}; give keys with values: {path} refers to one of them") from None
        reason = "it refers to itself" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UserError(f"{path} is {raw!r}, which has no value ({reason}); correct it in the config") from None


def _no_container(node: DictConfig | ListConfig, raw: str) -> str | None:
    """What the references in `raw`, such as ${model.backbone.depth}, cannot be looked up in: "model is null"."""
    root = node._get_root()
    for above in [key for name in _references(raw) for key in _keys_down_to(name)[:-1]]:
        try:
            found = OmegaConf.select(root, above, default=root)  # the whole config where it is absent
        except OmegaConfBaseException:
            break
        if not OmegaConf.is_config(found):
            return f"{above} is {_shown(found)}"
    return None


def is_structured(node) -> bool:
    """Whether OmegaConf made a node of a dataclass, whose types it holds itself."""
    return isinstance(node, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(node))


def target_of(call: DictConfig, path: str) -> Callable:
    """What a call calls. Raises UserError where there is no such thing."""
    target = value_at(call, "_target_", f"{path}_target_")
    if isinstance(target, str):
        try:
            target = locate(target)
        except Exception as error:
            why = in_a_line(error)
            raise UserError(f"{path}_target_ is {target!r}, which is not found ({why}); correct its name") from None
    if not callable(target):
        raise UserError(f"{path}_target_ is {target!r}, which cannot be called; give a function or class")
    return target


def hint_at(cfg: DictConfig, key: str):
    """The type that the call around `key` gives it, or None."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    return arguments(target_of(node, f"{parent}."))[0].get(name)


def _check_node(node, prefix: str, checked: set[str], null_allowed: bool, names: list[str] | None = None) -> None:
    """Calls below `node` (below its keys `names` alone), and numbers that are none; `prefix` is its key and a dot, keys
    of `checked` are left out."""
    for name in names or (range(len(node)) if isinstance(node, ListConfig) else node):
        path = f"{prefix}{name}"
        value = value_at(node, name, path)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path} is {value}; give a finite number")
        if isinstance(value, DictConfig | ListConfig) and not is_structured(value):
            if "_target_" in value:
                _check_call(value, f"{path}.", checked, null_allowed)
            _check_node(value, f"{path}.", checked, null_allowed)


def _check_call(call: DictConfig, prefix: str, checked: set[str], null_allowed: bool) -> None:
    """Raise UserError where the target of `call` would not take one of its arguments."""
    hints, open_ended = arguments(target_of(call, prefix))
    for name in call:
        if name == "_target_" or f"{prefix}{name}" in checked:
            continue
        if name in hints:
            if not (null_allowed and call._get_node(name)._value() is None):
                _check_value(call, name, prefix, hints[name])
        elif not open_ended:
            close = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"it takes {', '.join(hints) or 'nothing'}"
            raise UserError(f"nothing reads {prefix}{name}; {hint}")


def _check_form(node: DictConfig, form: type, prefix: str, referenced: set[str], checked: set[str]) -> None:
    """Raise UserError where `node` is not as `form` says; note the keys that it checks, and not what a call makes."""
    hints, call = _form_hints(form), "_target_" in node
    for name in node:
        path = f"{prefix}{name}"
        value = value_at(node, name, path)
        if is_typeddict(hints.get(name)) and isinstance(value, DictConfig):
            _check_form(value, hints[name], f"{path}.", referenced, checked)
        elif name in hints:
            _check_value(node, name, prefix, hints[name])
            checked.add(path)
        elif not call and path not in referenced and not (isinstance(value, DictConfig) and "_target_" in value):
            _check_unread(name, hints, prefix)
    for name in sorted(form.__required_keys__):
        if name not in node:
            raise UserError(f"the config has no {prefix}{name}; start from what configs/common holds")


def _form_hints(form: type) -> dict[str, Any]:
    hints = get_type_hints(form, include_extras=True)
    return {name: get_args(hint)[0] if get_origin(hint) is Required else hint for name, hint in hints.items()}


def _check_unread(name: str, hints: dict, prefix: str) -> None:
    """A key that nothing reads is refused in a form; at the top, where a file's variables lie, if it looks misspelt."""
    close = difflib.get_close_matches(str(name), hints, n=1, cutoff=0.5 if prefix else 0.75)
    if prefix or close:
        hint = f"did you mean {prefix}{close[0]}?" if close else f"known are {', '.join(hints)}"
        raise UserError(f"nothing reads {prefix}{name}; {hint}")


def _check_value(node: DictConfig, name: str, prefix: str, hint) -> None:
    value = _plain(value_at(node, name, f"{prefix}{name}"), f"{prefix}{name}.")
    filled_in_later = value is None and node._get_node(name)._is_interpolation()
    if not fits(value, hint) and not filled_in_later:
        path, value, hint = offending(f"{prefix}{name}", value, hint)
        raw = node._get_node(name)
        source = f", which {raw._value()} gives," if raw._is_interpolation() else ""
        raise UserError(f"{path}{source} is {_shown(value)[:100]}; give {words(hint)}")


def _plain(value, prefix: str):
    """A value of a config as lists and dictionaries, calls as `CALL`."""
    if isinstance(value, DictConfig):
        if "_target_" in value or is_structured(value):
            return CALL
        return {name: _plain(value_at(value, name, f"{prefix}{name}"), f"{prefix}{name}.") for name in value}
    if isinstance(value, ListConfig):
        return [_plain(value_at(value, i, f"{prefix}{i}"), f"{prefix}{i}.") for i in range(len(value))]
    return value


def references(cfg: DictConfig) -> set[str]:
    """Every key that an interpolation names, and the keys above it."""
    names = _references(str(OmegaConf.to_container(cfg, resolve=False)))
    return {key for name in names for key in _keys_down_to(name)}


def _references(text: str) -> list[str]:
    """["model.backbone.depth"] of a text with ${model.backbone.depth}."""
    return re.findall(r"\$\{(?:oc\.select:)?([\w.]+)(?:,\d+)?\}", text)


def _keys_down_to(name: str) -> list[str]:
    """["model", "model.backbone", "model.backbone.depth"] of the last of them."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _shown(value) -> str:
    return "null" if value is None else repr(value)
