"""Seeded changes of bytes, and of trees of dictionaries and lists."""

import copy

import numpy as np

NUMBERS = (0, 1, 2, 3, 5, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
HOSTILE = (
    None, True, False, 0, 1, -1, 7, 0.5, 1.5, 1e-9, 1e5, 1e9, -1e9, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**30,
    float("nan"), float("inf"), float("-inf"), "", " ", "0", "7", "1e5", "nan", "abc", "\xe9", "\ud800", "a\nb", "a\0b",
    "\u202e", "../x", "/dev/null", "x" * 5000, "<script>", "$x^$", [], {}, [[]], [None], [0], {"a": 1}, [[0, 0]],
    [1, 2, 3, 4],
)  # fmt: skip


def pick(rng: np.random.Generator, options):
    """One of a sequence, unconverted."""
    return options[int(rng.integers(len(options)))]


def mutate_bytes(data: bytes, rng: np.random.Generator, header: int = 128) -> bytes:
    """One to four changes; half of them within the first `header` bytes."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        length = len(data)
        place = int(rng.integers(max(1, min(length, header if rng.random() < 0.5 else length))))
        size = int(2 ** rng.uniform(0, 8))
        match int(rng.integers(8)):
            case 0 if length:
                data[min(place, length - 1)] ^= 1 << int(rng.integers(8))
            case 1 if length:
                data[min(place, length - 1)] = pick(rng, NUMBERS) & 0xFF
            case 2:  # a field of a header
                width, order = pick(rng, (2, 4)), pick(rng, ("big", "little"))
                data[place : place + width] = (pick(rng, NUMBERS) % 256**width).to_bytes(width, order)
            case 3:
                del data[place : place + size]
            case 4:
                data[place:place] = data[place : place + size]
            case 5:
                data[place : place + size] = rng.bytes(size)
            case 6:
                other = int(rng.integers(length + 1))
                data[place : place + size] = data[other : other + size]
            case 7 if rng.random() < 0.5:
                del data[int(rng.integers(length + 1)) :]
    return bytes(data)


def mutate_tree(tree, rng: np.random.Generator, changes: int = 3, hostile=HOSTILE):
    """A copy with one to `changes` nodes replaced, deleted, duplicated, nested, retyped, swapped or moved a little."""
    holder = [copy.deepcopy(tree)]
    for _ in range(int(rng.integers(1, changes + 1))):
        parent, key = _node(holder, rng)
        change = pick(rng, (_replace, _replace, _delete, _duplicate, _nest, _retype, _retype, _swap, _tweak, _tweak))
        state = rng.bit_generator.state
        for where in [parent] if rng.random() < 0.8 else _siblings(holder, parent, key):
            rng.bit_generator.state = state  # the same change in all of them
            change(where, key, rng, holder, hostile)
    return holder[0] if holder else None


def _node(holder: list, rng: np.random.Generator) -> tuple:
    """A random place: the way down ends at any level."""
    parent, key = holder, 0
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.8:
        parent = parent[key]
        key = pick(rng, list(parent) if isinstance(parent, dict) else range(len(parent)))
    return parent, key


def _siblings(holder: list, parent, key) -> list:
    """All entries of the list that `parent` is an entry of and that have `key` too."""
    lists, found = [holder], [parent]
    while lists:
        node = lists.pop()
        children = list(node.values()) if isinstance(node, dict) else node
        if isinstance(node, list) and any(child is parent for child in node) and isinstance(parent, dict):
            found = [child for child in node if isinstance(child, dict) and key in child]
        lists += [child for child in children if isinstance(child, dict | list)]
    return found


def _replace(parent, key, rng, holder, hostile):
    parent[key] = copy.deepcopy(pick(rng, hostile))


def _delete(parent, key, rng, holder, hostile):
    if parent is not holder:
        del parent[key]


def _duplicate(parent, key, rng, holder, hostile):
    twin = copy.deepcopy(parent[key])
    if isinstance(parent, list) and parent is not holder:
        parent[key:key] = [twin] * pick(rng, (1, 1, 2, 40))
    elif isinstance(parent, dict):
        parent[pick(rng, list(parent))] = twin


def _nest(parent, key, rng, holder, hostile):
    for _ in range(pick(rng, (1, 1, 2, 100))):  # three such are no deeper than copying and writing can go
        parent[key] = [parent[key]] if rng.random() < 0.7 else {"x": parent[key]}


def _retype(parent, key, rng, holder, hostile):
    value = parent[key]
    if isinstance(value, bool | int | float):
        kinds = (str, float, lambda v: [v], lambda v: v + 0.5, bool)
    elif isinstance(value, str):
        kinds = (len, list, lambda v: v.encode("unicode-escape").decode(), str.upper, lambda v: f" {v}")
    elif isinstance(value, list):
        kinds = (str, lambda v: dict(enumerate(map(str, v))), lambda v: v and v[0], lambda v: v[::-1], tuple)
    else:
        kinds = (str, lambda v: list(v.values()) if isinstance(v, dict) else v, lambda v: [] if v is None else list(v))
    try:
        parent[key] = pick(rng, kinds)(value)
    except (TypeError, OverflowError):
        pass


def _swap(parent, key, rng, holder, hostile):
    other, place = _node(holder, rng)
    parent[key] = copy.deepcopy(other[place])


def _tweak(parent, key, rng, holder, hostile):
    value = parent[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        changes = (lambda v: -v, lambda v: v + 1, lambda v: v - 1, lambda v: v * 10**6, lambda v: v / 128, lambda v: 0)
        parent[key] = pick(rng, changes)(value)
    elif isinstance(value, str) and value:
        parent[key] = mutate_bytes(value.encode(errors="replace"), rng, 8).decode(errors="replace")
    elif isinstance(value, list):
        rng.shuffle(value)
