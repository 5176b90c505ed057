"""The demo's last line, which people read and scripts take apart."""


def test_the_last_line_has_all_figures(load_tool):
    box = {"pretrained": 22.884, "untrained": 2.3, "scratch": 17.0}
    line = load_tool("demo").comparison({"box_ap": box, "mask_ap": box | {"scratch": None}})
    assert line == (
        "box AP 22.88 pretrained, 2.30 untrained, 17.00 from scratch; "
        "mask AP 22.88 pretrained, 2.30 untrained, undefined (nothing was detected) from scratch"
    )
