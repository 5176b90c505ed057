"""YAML configs as untrusted data: reading them runs no code, and they may build only listed targets.

A LazyConfig file is Python and is trusted like a program. A .yaml file may be anybody's: the one in a run's folder, or
one given as --config-file. Detectron2 reads it with `yaml.unsafe_load`, and calls whatever a `_target_` names.
"""

import io
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from pretrain.errors import UserError, reason

MAX_BYTES = 256 * 1024  # of a file; the largest that a run has saved has 8 KB
MAX_VALUES = 20_000  # of a config, aliases and interpolations written out
COST_OF_REFERENCE = 50  # values; omegaconf takes a millisecond for one
MAX_INTERPOLATED = 1_000  # characters of a text with an interpolation


def read_config(path: str | Path, untagged: bool = False) -> DictConfig:
    """A config in YAML. Python objects, aliases that grow or go in circles, and resolvers but `oc.select` are refused.

    Args:
        untagged: take the values of Python objects instead (a detector's config has some), and make none.

    Raises:
        UserError: it is not there, damaged, no config, or more than plain values with references among them.
    """
    try:
        text = _read_text(Path(path))
        text = without_tags(text) if untagged else text
        _count(yaml.compose(text, yaml.SafeLoader), {})
        cfg = OmegaConf.load(io.StringIO(text))
        if not isinstance(cfg, DictConfig):
            raise ValueError("it is a list, and not keys with values")
        for _, value in nodes(OmegaConf.to_container(cfg, resolve=False)):
            _check_interpolation(value)
    except Exception as error:  # the YAML reader and omegaconf raise what they stumble on, RecursionError too
        raise UserError(f"{path}: cannot be read as the config of a run: {reason(error)}") from error
    return cfg


def without_tags(text: str) -> str:
    """YAML without the tags that name Python objects: their values stay."""
    return re.sub(r"!!python/\S+", "", text)


def plain_part(cfg: DictConfig, key: str, targets: Collection[str], path: str | Path):
    """The value at `key` as plain dicts, lists and values, interpolations resolved.

    Args:
        targets: what a `_target_` in it may name, in full.
        path: what errors call the config.

    Raises:
        UserError: there is no such key, a reference leads nowhere or in a circle, or another target is asked for.
    """
    try:
        part = _plain(OmegaConf.select(cfg, key, throw_on_missing=True), [MAX_VALUES])
    except Exception as error:  # as above
        raise UserError(f"{path}: {key} cannot be read: {reason(error)}") from error
    if part is None:
        raise UserError(f"{path}: the config has no {key}; it is not of a run, or damaged")
    check_targets(part, targets, path, key)
    return part


def check_targets(part, targets: Collection[str], path: str | Path, key: str = "") -> None:
    """Raise UserError if anything in `part`, plain dicts and lists at `key`, would call what is not in `targets`."""
    for place, node in nodes(part, key):
        if isinstance(node, dict) and "_target_" in node:
            target = node["_target_"]
            if not isinstance(target, str) or target not in targets:
                raise UserError(
                    f"{path}: {place} asks for {str(target)[:100]}, which is not on the list of what a YAML file may "
                    "build; nothing of it was run, and only a LazyConfig file (.py) of your own may ask for more"
                )


def nodes(tree, key: str = "") -> Iterator[tuple[str, object]]:
    """All nodes of nested dicts and lists with their dotted keys, parents first."""
    yield key, tree
    if isinstance(tree, dict | list):
        for name, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from nodes(child, f"{key}.{name}" if key else str(name))


def _read_text(path: Path) -> str:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"it has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
    return path.read_text(encoding="utf-8")


def _count(node: yaml.Node | None, known: dict[int, int | None]) -> int:
    """Values below a node with every alias written out; raises ValueError where there are too many, or a circle."""
    if node is None or id(node) in known:
        count = 0 if node is None else known[id(node)]
        if count is None:
            raise ValueError("an alias in it contains itself")
        return count
    known[id(node)] = None
    children = node.value if isinstance(node, yaml.CollectionNode) else ()
    pairs = isinstance(node, yaml.MappingNode)
    count = 1 + sum(_count(part, known) for child in children for part in (child if pairs else (child,)))
    if count > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES:,} values, aliases written out")
    known[id(node)] = count
    return count


def _check_interpolation(value) -> None:
    """References to other keys only, with a number where there is none: `${oc.env:HOME}` reads the environment."""
    if isinstance(value, str) and re.fullmatch(r"\$\{oc\.select:[\w.]{1,200},\d{1,9}\}", value, re.ASCII):
        return
    if isinstance(value, str) and "${" in value:
        if ":" in value or value.count("${") > 1 or len(value) > MAX_INTERPOLATED:
            raise ValueError(f"{value[:80]!r} is more than a reference to one other key")


def _plain(node, budget: list[int]):
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError(f"it has more than {MAX_VALUES:,} values, references written out")
    if not isinstance(node, DictConfig | ListConfig):
        return node
    names = list(node) if isinstance(node, DictConfig) else range(len(node))
    budget[0] -= COST_OF_REFERENCE * sum(node._get_node(name)._is_interpolation() for name in names)
    values = (_plain(node[name], budget) for name in names)
    return dict(zip(names, values, strict=True)) if isinstance(node, DictConfig) else list(values)
