"""The demo's last line, which people read and scripts take apart."""

import pytest


@pytest.mark.parametrize("seed", ["-1", str(2**32 - 1), "x"])
def test_a_seed_is_one_for_every_stage(load_tool, seed, capsys):
    """The detectors have the next one."""
    with pytest.raises(SystemExit):
        load_tool("demo").parse_args(["--seed", seed])
    assert "--seed" in capsys.readouterr().err
    assert load_tool("demo").parse_args(["--seed", str(2**32 - 2)]).seed == 2**32 - 2


def test_the_last_line_has_all_figures(load_tool):
    box = {"pretrained": 22.884, "untrained": 2.3, "scratch": 17.0}
    line = load_tool("demo").comparison({"box_ap": box, "mask_ap": box | {"scratch": None}})
    assert line == (
        "box AP 22.88 pretrained, 2.30 untrained, 17.00 from scratch; "
        "mask AP 22.88 pretrained, 2.30 untrained, undefined (nothing was detected) from scratch"
    )
