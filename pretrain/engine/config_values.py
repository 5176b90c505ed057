"""Whether the values of a config can be what their readers take: one pass over all of it, before anything is built.

A call (`L(target)(...)`) is held against its target's signature: names, types, and the ranges of `pretrain.ranges`;
an argument without a type has that of its default. What lies outside of calls, such as `train`, is held against a
*form*: a `TypedDict`, of which nested ones describe nested keys.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import os
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

import torch
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.errors import UserError, in_a_line
from pretrain.ranges import Range

CALL = object()  # stands for what a nested call will return
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


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
    """What a reference such as ${model.backbone.depth} cannot be looked up in: "model is null"."""
    while (parent := node._get_parent()) is not None:
        node = parent
    for key in re.findall(r"\$\{([\w.]+)\.\w+\}", raw):
        parts = key.split(".")
        for end in range(1, len(parts) + 1):
            above = ".".join(parts[:end])
            try:
                found = OmegaConf.select(node, above, default=node)  # the whole config where it is absent
            except OmegaConfBaseException:
                break
            if not OmegaConf.is_config(found):
                return f"{above} is {'null' if found is None else repr(found)}"
    return None


@functools.lru_cache(maxsize=256)
def arguments(target: Callable) -> tuple[dict[str, Any], bool]:
    """Types of a callable's arguments by name, and whether it takes others too.

    Where a class passes **kwargs on, those of its base classes count as well. An argument that is None by default may
    always be None; one without a type has that of its default.
    """
    hints, open_ended = {}, False
    for part in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if part is object or (inspect.isclass(part) and "__init__" not in vars(part)):
            continue
        function = part.__init__ if inspect.isclass(part) else part
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # some built-in functions have none
            return hints, True
        typed = _type_hints(function)
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self":
                hints.setdefault(p.name, _hint(p, typed.get(p.name, p.empty)))
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not open_ended:
            break
    return hints, open_ended


def is_structured(node) -> bool:
    """Whether OmegaConf made a node of a dataclass, whose types it holds itself."""
    return isinstance(node, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(node))


def fits(value, hint) -> bool:
    """Whether plain data of a config can be an argument of the type `hint`; what is not known to be wrong can."""
    origin, args = get_origin(hint), get_args(hint)
    if value is CALL or hint is Any:
        return True
    if origin is Annotated:
        ranges = [extra for extra in hint.__metadata__ if isinstance(extra, Range)]
        return fits(value, args[0]) and all(value in extra for extra in ranges)
    if origin in (Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if is_typeddict(hint):
        return isinstance(value, dict)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    return _fits_class(value, origin or hint, args)


def words(hint) -> str:
    """A type in words: "a whole number of at least 1, or null"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([words(args[0]), *(str(extra) for extra in hint.__metadata__ if isinstance(extra, Range))])
    if origin in (Union, types.UnionType):
        every = list(dict.fromkeys(words(arg) for arg in args))
        plain = [part for part in every if not part.startswith("a call")]
        return " or ".join(plain if plain and plain != ["null"] else every)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is tuple and len(args) > 1 and Ellipsis not in args:
        return f"a list of {len(args)} ({', '.join(dict.fromkeys(words(arg) for arg in args))})"
    kind = origin or hint
    if inspect.isclass(kind) and kind is not str and issubclass(kind, Mapping):
        return "keys with values"
    if inspect.isclass(kind) and kind is not str and issubclass(kind, Sequence):
        return "a list" + (f" (of {words(args[0])})" if args else "")
    if inspect.isclass(kind) and issubclass(kind, os.PathLike):
        return "a path"
    name = str(getattr(kind, "__name__", kind))
    return WORDS.get(kind) or f"a call that makes {'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _fits_class(value, kind, args: tuple) -> bool:
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not inspect.isclass(kind):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) or not _is_plain(value)
    if issubclass(kind, Sequence) or kind in (Iterable, Collection):
        return _fits_sequence(value, kind, args)
    if isinstance(value, str) and (issubclass(kind, os.PathLike) or kind is torch.device):
        return True
    return not _is_plain(value)


def _fits_sequence(value, kind: type, args: tuple) -> bool:
    if not isinstance(value, list | tuple):
        return not _is_plain(value)
    if kind is tuple and len(args) > 1 and Ellipsis not in args:  # Detectron2 writes Tuple[int] for any number of them
        return len(value) == len(args) and all(map(fits, value, args))
    return all(fits(item, args[0]) for item in value) if args else True


def _is_plain(value) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)


def _hint(parameter: inspect.Parameter, hint):
    """The type of an argument, or what its default says of it."""
    default = parameter.default
    if hint is parameter.empty:
        if isinstance(default, bool):
            return bool
        kinds = {int: float, float: float, tuple: Sequence | int | float, list: Sequence}
        return kinds.get(type(default), str | Callable if isinstance(default, str) else Any)
    return hint | None if default is None and hint is not Any and not isinstance(hint, str) else hint


def _type_hints(function: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # names that exist for type checkers only
        return {}


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
        path, value, hint = _offending(f"{prefix}{name}", value, hint)
        shown = "null" if value is None else repr(value)
        raw = node._get_node(name)
        source = f", which {raw._value()} gives," if raw._is_interpolation() else ""
        raise UserError(f"{path}{source} is {shown[:100]}; give {words(hint)}")


def _offending(path: str, value, hint) -> tuple[str, Any, Any]:
    """The innermost item of a list that does not fit, where the list's length does."""
    args = get_args(hint)
    if get_origin(hint) not in (tuple, list) or not isinstance(value, list) or not args:
        return path, value, hint
    if len(args) == 1 or Ellipsis in args:
        args = args[:1] * len(value)
    if len(args) == len(value):
        for i, (item, kind) in enumerate(zip(value, args, strict=True)):
            if not fits(item, kind):
                return _offending(f"{path}.{i}", item, kind)
    return path, value, hint


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
    found = set()
    for text in re.findall(r"\$\{([\w.]+)\}", str(OmegaConf.to_container(cfg, resolve=False))):
        parts = text.split(".")
        found |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    return found
