"""Which values make sense. Types of arguments say it: `depth: Layers` is a whole number from 1 to 1,000.

The types are for the reader and for the configs' boundary (`pretrain.engine.config_values`), which refuses other values
before anything is built. At run time they are plain numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pretrain.errors import UserError, in_a_line


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, the ends included unless `above` or `below` says otherwise."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high >= 2**53:  # no limit that anybody meets
            return f"above {self.low:,}" if self.above else f"of at least {self.low:,}"
        return f"from {'above ' * self.above}{self.low:,} to {'below ' * self.below}{self.high:,}"


Whole = Annotated[int, Range(0, 2**53)]  # also a period that 0 turns off
Count = Annotated[int, Range(1, 2**63)]  # also a period that cannot be turned off
Layers = Annotated[int, Range(1, 1000)]
Width = Annotated[int, Range(1, 2**16)]  # channels of a token
MOST_BANDS = 12
Channels = Annotated[int, Range(1, MOST_BANDS)]  # bands of an image
Pixels = Annotated[int, Range(1, 2**14)]  # a side
Patches = Annotated[int, Range(1, 2**11)]  # a side of a grid or field
BatchSize = Annotated[int, Range(1, 2**17)]
Workers = Annotated[int, Range(0, 2**10)]
Prototypes = Annotated[int, Range(1, 2**22)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # what numpy's takes
Positive = Annotated[float, Range(0, above=True)]
Temperature = Annotated[float, Range(1e-4, 10_000)]  # cosines divided by it have a finite softmax and gradient
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]  # probabilities too
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]


def check_schedule(schedule: Callable[[float], float], key: str, high: float = math.inf, zero: bool = True) -> None:
    """Raise UserError, with the config's key, unless all that a schedule gives over a training is from 0 to `high`.

    zero: whether it may be 0 throughout.
    """
    values, wanted = [], f"numbers from 0 {'on' if high == math.inf else f'to {high:g}'}"
    for progress in (0.0, 1e-4, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1 - 1e-6):  # fvcore refuses 1
        try:
            value = schedule(progress)
            found, good = f"{value:.4g}", math.isfinite(value) and 0 <= value <= high
        except Exception as error:  # a schedule is anyone's function
            found, good = f"{type(error).__name__} ({in_a_line(error)})", False
        if not good:
            raise UserError(f"{key}: gives {found} at {progress:.4g} of training; it must give {wanted}")
        values.append(value)
    if not zero and not any(values):
        raise UserError(f"{key}: gives 0 throughout, and nothing would be trained; give another schedule")
