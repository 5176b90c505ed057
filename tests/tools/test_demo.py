"""The demo's last line, which people read and scripts take apart."""


def test_the_last_line_has_all_four_figures(load_tool):
    result = {"box_ap": {"pretrained": 22.884, "scratch": 17.0}, "mask_ap": {"pretrained": 17.5, "scratch": None}}
    line = load_tool("demo").comparison(result)
    assert line == "box AP 22.88 vs 17.00 from scratch; mask AP 17.50 vs undefined (nothing was detected)"
