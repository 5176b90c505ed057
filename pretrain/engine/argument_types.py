"""What an argument takes: the types of a callable's arguments, whether plain data fits a type, and a type in words."""

import functools
import inspect
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import torch

from pretrain.ranges import Range

CALL = object()  # stands for what a nested call will return
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


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


def offending(path: str, value, hint) -> tuple[str, Any, Any]:
    """The innermost item of a list that does not fit, where the list's length does."""
    args = get_args(hint)
    if get_origin(hint) not in (tuple, list) or not isinstance(value, list) or not args:
        return path, value, hint
    if len(args) == 1 or Ellipsis in args:
        args = args[:1] * len(value)
    if len(args) == len(value):
        for i, (item, kind) in enumerate(zip(value, args, strict=True)):
            if not fits(item, kind):
                return offending(f"{path}.{i}", item, kind)
    return path, value, hint
