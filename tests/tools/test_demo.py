"""The demo's result, and its last line, which people read and scripts take apart."""

import json

import pytest


@pytest.mark.parametrize("seed", ["-1", str(2**32 - 1), "x"])
def test_a_seed_is_one_for_every_stage(load_tool, seed, capsys):
    """The detectors have the next one."""
    with pytest.raises(SystemExit):
        load_tool("demo").parse_args(["--seed", seed])
    assert "--seed" in capsys.readouterr().err
    assert load_tool("demo").parse_args(["--seed", str(2**32 - 2)]).seed == 2**32 - 2


def test_the_result_has_each_detectors_box_and_mask_ap(load_tool, tmp_path):
    tool = load_tool("demo")
    for place, name in enumerate(tool.STARTS):
        (tmp_path / f"detect_{name}").mkdir()
        ap = {"bbox": {"AP": 20 + place}, "segm": {"AP": 10 + place}}
        (tmp_path / f"detect_{name}" / "result.json").write_text(json.dumps(ap))
    result = tool.collect(tmp_path, 7, {"pretrain": 1.5})
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["seed"] == 7 and result["seconds"] == {"pretrain": 1.5}
    assert [*result["box_ap"].items()] == [*zip(tool.STARTS, (20, 21, 22), strict=True)]
    assert [*result["mask_ap"].values()] == [10, 11, 12]


def test_the_last_line_has_all_figures(load_tool):
    box = {"pretrained": 22.884, "untrained": 2.3, "scratch": 17.0}
    line = load_tool("demo").comparison({"box_ap": box, "mask_ap": box | {"scratch": None}})
    assert line == (
        "box AP 22.88 pretrained, 2.30 untrained, 17.00 from scratch; "
        "mask AP 22.88 pretrained, 2.30 untrained, undefined (nothing was detected) from scratch"
    )
