"""Options that the tools have in common. Imports nothing that takes time, so that --help comes at once."""

import argparse
import math
from collections.abc import Callable


def positive(text: str) -> int:
    """A positive integer, for `type=`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0 to 2^63 - 1, a seed for instance, for `type=`."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def above_zero(text: str) -> float:
    """A finite number above 0, for `type=`."""
    return _number(text, lambda value: value > 0, "above 0")


def not_negative(text: str) -> float:
    """A finite number of at least 0, for `type=`."""
    return _number(text, lambda value: value >= 0, "of at least 0")


def share(text: str) -> float:
    """From 0 to below 1, for `type=`."""
    return _number(text, lambda value: 0 <= value < 1, "from 0 to below 1")


def _number(text: str, fits: Callable[[float], bool], wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number {wanted}")
    return value


def height_by_width(text: str) -> tuple[int, int]:
    """ "800x1024" -> (800, 1024) in pixels, for `type=`."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in pixels, such as 800x1024")
    return int(sides[0]), int(sides[1])


def add_processes(parser: argparse.ArgumentParser) -> None:
    """--num-gpus and the like; `pretrain.engine.distributed.start` takes their values."""
    several = parser.add_argument_group("several processes")
    several.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="of this machine; without GPUs, processes on the CPU"
    )
    several.add_argument("--num-machines", type=int, default=1, metavar="N", help="that run this command")
    several.add_argument("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    several.add_argument(
        "--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0, where several machines meet"
    )
