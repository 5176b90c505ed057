"""t_s, which puts the crops of an image into the field (Sec. 3.2.2), one number after the other."""

import math


def place_in_field(boxes: list, scale: float, across: float, down: float) -> list[list[float]]:
    """Boxes (x0, y0, x1, y1) of one image -> where they lie in the field, in float64.

    scale: s. across, down: in [0, 1], where in the room that is left the rectangle A around all boxes goes.
    """
    boxes = [[float(value) for value in box] for box in boxes]
    left = min(min(x0, x1) for x0, _, x1, _ in boxes)
    right = max(max(x0, x1) for x0, _, x1, _ in boxes)
    top = min(min(y0, y1) for _, y0, _, y1 in boxes)
    bottom = max(max(y0, y1) for _, y0, _, y1 in boxes)
    width, height = right - left, bottom - top
    factor = math.sqrt(scale / (width * height))
    if factor * max(width, height) > 1:  # A would leave the field
        factor = 1 / max(width, height)
    x = across * (1 - factor * width)
    y = down * (1 - factor * height)
    return [
        [x + factor * (x0 - left), y + factor * (y0 - top), x + factor * (x1 - left), y + factor * (y1 - top)]
        for x0, y0, x1, y1 in boxes
    ]
