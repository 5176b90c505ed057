"""Places in images that a command is asked about: --images and --points."""

import argparse
from pathlib import Path

from pretrain.errors import UserError


def point(text: str) -> tuple[float, float]:
    """ "0.4,0.3" -> (0.4, 0.3): x and y from the upper left of an image's middle square; for argparse."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not x,y") from None
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise argparse.ArgumentTypeError(f"{text!r} does not lie in the image: x and y go from 0 to 1")
    return x, y


def check_queries(parser: argparse.ArgumentParser, images: list[Path], points: list[tuple[float, float]]) -> None:
    """As many points as images go together in order; otherwise one image takes all points, or all images one point."""
    if len(images) != len(points) and (1 not in (len(images), len(points)) or not images or not points):
        parser.error(f"{len(images)} images and {len(points)} points: give as many, or one of either")


def load_queries(images: list[Path], points: list[tuple[float, float]], size: int) -> list:
    """-> (middle square, uint8 (size, size, 3); point) pairs, in order

    Raises:
        UserError: an image cannot be read.
    """
    from lab.attention.images import middle_square
    from pretrain.data.images import BrokenImage, decode_image

    if not images:
        return []
    try:
        squares = [middle_square(decode_image(path), size) for path in images]
    except BrokenImage as error:
        raise UserError(f"{error}: give another image as --images") from error
    count = max(len(images), len(points))
    return list(zip(squares * (count // len(squares)), points * (count // len(points)), strict=True))
