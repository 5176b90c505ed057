"""A font for any text: DejaVu Sans, which matplotlib ships, or an installed one that has the characters it lacks."""

import logging
from functools import cache

from PIL import ImageFont

logger = logging.getLogger(__name__)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first font that has every character of `text`; DejaVu Sans if none has. size: in pixels."""
    return _opened(_file_with(frozenset(map(ord, text))), size)


@cache
def _opened(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _file_with(characters: frozenset[int]) -> str:
    from matplotlib import font_manager, get_data_path

    own = f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    if characters <= _characters_of(own):
        return own
    for path in sorted(font_manager.findSystemFonts()):
        if characters <= _characters_of(path):
            return path
    absent = "".join(map(chr, sorted(characters - _characters_of(own))))
    logger.warning("no installed font has %s: drawn as boxes; install one, such as Noto Sans CJK", absent)
    return own


@cache
def _characters_of(path: str) -> frozenset[int]:
    """Code points that a font file has; none if it is no font that Pillow can draw with."""
    from fontTools.ttLib import TTFont

    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:  # the first of a collection, which Pillow opens too
            return frozenset(font.getBestCmap() or ()) if {"glyf", "CFF ", "CFF2"} & set(font.keys()) else frozenset()
    except Exception:  # a damaged font raises whatever its reader stumbles on
        return frozenset()
