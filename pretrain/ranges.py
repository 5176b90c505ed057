"""Types of arguments that say which values make sense: `depth: Layers` is a whole number from 1 to 1,000.

They are for the reader and for the configs' boundary (`pretrain.engine.config_values`), which refuses other values
before anything is built. At run time they are plain numbers.
"""

import math
from dataclasses import dataclass
from typing import Annotated


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
Width = Annotated[int, Range(1, 2**16)]  # channels
Pixels = Annotated[int, Range(1, 2**14)]  # a side
Patches = Annotated[int, Range(1, 2**11)]  # a side of a grid or field
BatchSize = Annotated[int, Range(1, 2**17)]
Workers = Annotated[int, Range(0, 2**10)]
Prototypes = Annotated[int, Range(1, 2**22)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # what numpy's takes
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]  # probabilities too
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
