"""Query points on the command line. Imports nothing large, so --help comes at once."""

import argparse
from pathlib import Path

Point = tuple[float, float]  # x and y in [0, 1], from the upper left of an image's central square


def point(text: str) -> Point:
    """ "0.4,0.3" -> (0.4, 0.3), for argparse."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not x,y") from None
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is outside the image: x and y are from 0 to 1")
    return x, y


def check_points(parser: argparse.ArgumentParser, images: list[Path], points: list[Point]) -> None:
    """Check the numbers: equally many images and points (paired in order), or one of either."""
    if len(images) != len(points) and (1 not in (len(images), len(points)) or not images or not points):
        parser.error(f"{len(images)} images and {len(points)} points: give equally many, or one of either")
