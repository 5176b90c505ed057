"""How an image file is to be read: one value that sources, mappers and checks hand on to `decode_image`."""

import math
from dataclasses import dataclass

from PIL import Image

from pretrain.errors import UserError
from pretrain.ranges import Channels, Count

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485  # where Pillow too starts to suspect a decompression bomb

ValueRange = tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """What is asked of an image file.

    max_pixels: larger images count as broken.
    channels: 3 is RGB, 1 is grey. For other numbers bands are taken as they lie in the file, the first ones where it
    has more; transparency is then a band.
    value_range: for files of more than 8 bits, the values that become 0 and 255; beyond it values are clipped. None: 16
    bits keep their upper byte, and others, which have no agreed white level, are stretched from minimum to maximum.

    Raises UserError unless value_range is None or goes from a smaller to a larger number.
    """

    max_pixels: Count = MAX_PIXELS
    channels: Channels = 3
    value_range: ValueRange | None = None

    def __post_init__(self):
        if self.value_range is None:
            return
        values = tuple(self.value_range)  # of a config's list
        if len(values) != 2 or not all(map(math.isfinite, values)) or values[0] >= values[1]:
            raise UserError(
                f"value_range={list(values)} is empty: give the values that become 0 and 255, the smaller first, such "
                "as [0,4095] for 12 bits"
            )
        object.__setattr__(self, "value_range", values)


AS_RGB = Reading()
