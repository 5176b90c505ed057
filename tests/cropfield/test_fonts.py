"""Names in any script are drawn: with the shipped font, with an installed one, or as boxes and with a warning."""

import pytest
from fontTools import ttLib
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from cropfield import fonts
from cropfield.fonts import font_for


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed("椅 ", ...) makes a font file of each text's characters, and no other is on this machine."""

    def install(*texts: str) -> list[str]:
        paths = []
        for number, text in enumerate(texts):
            pen = TTGlyphPen(None)
            for step, point in enumerate([(0, 0), (0, 900), (900, 900), (900, 0)]):
                pen.lineTo(point) if step else pen.moveTo(point)
            pen.closePath()
            names = [f"u{ord(character):x}" for character in text]
            builder = FontBuilder(1000)
            builder.setupGlyphOrder([".notdef", *names])
            builder.setupCharacterMap({ord(character): name for character, name in zip(text, names, strict=True)})
            builder.setupGlyf({name: pen.glyph() for name in (".notdef", *names)})
            builder.setupHorizontalMetrics({name: (1000, 0) for name in (".notdef", *names)})
            builder.setupHorizontalHeader(ascent=900, descent=0)
            builder.setupNameTable({"familyName": "Test", "styleName": "Regular"})
            builder.setupOS2()
            builder.setupPost()
            builder.save(tmp_path / f"{number}.ttf")
            paths.append(str(tmp_path / f"{number}.ttf"))
        (tmp_path / "broken.ttf").write_bytes(b"no font")
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "broken.ttf"), *paths])
        return paths

    fonts._file_with.cache_clear()
    yield install
    fonts._file_with.cache_clear()


def test_most_names_are_in_the_shipped_font(installed, caplog):
    installed("Käse")
    for name in ("Käse 0.98", "кошка", "γάτα", "ñandú"):
        assert font_for(name, 14).path.endswith("DejaVuSans.ttf")
    assert not caplog.messages


def test_an_installed_font_that_has_all_characters_is_taken(installed):
    _, both = installed("椅", "椅子 0.9")
    assert font_for("椅子 0.9", 14).path == both


def test_a_damaged_font_of_any_kind_is_passed_over(installed, monkeypatch):
    _, both = installed("椅", "椅子")
    opened = ttLib.TTFont

    def stumble(path, **options):
        if path != both:
            raise IndexError("list index out of range")
        return opened(path, **options)

    fonts._characters_of.cache_clear()
    monkeypatch.setattr(ttLib, "TTFont", stumble)
    assert font_for("椅子", 14).path == both
    fonts._characters_of.cache_clear()


def test_characters_that_no_font_has_are_told_once(installed, caplog):
    installed("椅")
    for _ in range(3):
        assert font_for("椅子", 14).path.endswith("DejaVuSans.ttf")
    assert len(caplog.messages) == 1 and "no installed font has 子椅" in caplog.messages[0]
