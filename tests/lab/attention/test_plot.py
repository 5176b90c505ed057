"""The plot of several results."""

import cv2
import pytest

from cropfield.results import write_result
from lab.attention.plot import read_layers, write_layers_plot
from pretrain.errors import UserError


def result(folder, model="a", protocol="attention", nmi=(0.1, 0.2), dataset="coco"):
    metrics = {f"nmi_layer_{i:02d}": v for i, v in enumerate(nmi, 1)}
    metrics |= {f"distance_layer_{i:02d}": 100 * v for i, v in enumerate(nmi, 1)}
    metrics |= {f"distance_percent_layer_{i:02d}": -1 for i, _ in enumerate(nmi, 1)}
    write_result(folder, protocol, dataset, model, metrics, {"image_size": 480})
    return folder


def test_layers_come_in_order(tmp_path):
    values = [i / 10 for i in range(12)]
    found = read_layers(result(tmp_path, nmi=values))
    assert found["nmi"] == values and found["distance"] == pytest.approx([100 * v for v in values])
    assert (found["model"], found["settings"]) == ("a", {"image_size": 480})


def test_the_plot_is_a_readable_png_that_shows_every_line(tmp_path):
    one, two = read_layers(result(tmp_path / "1")), read_layers(result(tmp_path / "2", "b", nmi=(0.3, 0.01)))
    write_layers_plot(tmp_path / "one.png", [one])
    write_layers_plot(tmp_path / "both.png", [one, two])
    pictures = [cv2.imread(str(tmp_path / name)) for name in ("one.png", "both.png")]
    assert pictures[0].shape == pictures[1].shape == (400, 1000, 3)
    orange = [((picture[..., ::-1] - [230, 159, 0]) == 0).all(-1).sum() for picture in pictures]
    assert orange[0] == 0 and orange[1] > 100


def test_what_is_no_result_of_attention_gets_a_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no result .*attention_stats.py"):
        read_layers(tmp_path)
    with pytest.raises(UserError, match="is a result of knn"):
        read_layers(result(tmp_path, protocol="knn"))
    (tmp_path / "result.json").write_text("[1]")
    with pytest.raises(UserError, match="is not a result"):
        read_layers(tmp_path)
