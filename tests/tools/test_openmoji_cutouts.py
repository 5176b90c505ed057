"""Which of OpenMoji's pictographs become cut-outs; drawing them needs resvg-py, which the tests do without."""

import json
import sys
from types import SimpleNamespace

import pytest

from pretrain.errors import UserError


@pytest.fixture
def package(load_tool, tmp_path):
    entries = [("flags", "country-flag", ""), ("animals-nature", "animal-bird", 1), ("objects", "phone", "")]
    for name in load_tool("openmoji_cutouts").DETECTED:
        entries += [("group", name, "")] * 4
    listed = [
        {"group": group, "subgroups": subgroup, "skintone": tone, "hexcode": f"{number:X}"}
        for number, (group, subgroup, tone) in enumerate(entries)
    ]
    (tmp_path / "package" / "data").mkdir(parents=True)
    (tmp_path / "package" / "data" / "openmoji.json").write_text(json.dumps(listed))
    return tmp_path / "package"


def test_solid_pictographs_in_groups_that_are_large_enough(load_tool, package, tmp_path, monkeypatch, capsys):
    drawn = []
    drawer = SimpleNamespace(svg_to_bytes=lambda svg_path, width: drawn.append((svg_path, width)) or b"PNG")
    monkeypatch.setitem(sys.modules, "resvg_py", drawer)
    monkeypatch.setattr("sys.argv", ["x", str(package), "--output", str(tmp_path / "out"), "--side", "7"])
    load_tool("openmoji_cutouts").main()
    birds = sorted(path.name for path in (tmp_path / "out" / "all" / "animal-bird").iterdir())
    assert birds == ["3.png", "4.png", "5.png", "6.png"]
    assert birds == sorted(path.name for path in (tmp_path / "out" / "detection" / "animal-bird").iterdir())
    assert len(drawn) == 48 and drawn[0] == (str(package / "color" / "svg" / "3.svg"), 7)
    assert "48 cut-outs of 12 groups" in capsys.readouterr().out


def test_pictures_of_others_stay_as_they_are(load_tool, package, tmp_path, monkeypatch):
    (tmp_path / "out" / "all").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "resvg_py", SimpleNamespace(svg_to_bytes=None))
    monkeypatch.setattr("sys.argv", ["x", str(package), "--output", str(tmp_path / "out")])
    with pytest.raises(UserError, match="all exists, and would be written over"):
        load_tool("openmoji_cutouts").main()


def test_what_is_not_openmojis_is_refused(load_tool, package, tmp_path):
    tool = load_tool("openmoji_cutouts")
    with pytest.raises(UserError, match="give the unpacked npm package openmoji"):
        tool.read_groups(tmp_path)
    (package / "data" / "openmoji.json").write_text("[]")
    with pytest.raises(UserError, match="no group 'animal-bird'"):
        tool.read_groups(package)
