"""CLEVR's two questions."""

import json

import pytest

from lab.probes.datasets import clevr_split, count_label, distance_label
from pretrain.errors import UserError


def scene(*distances: float) -> dict:
    return {"objects": [{"pixel_coords": [1, 2, distance]} for distance in distances]}


@pytest.mark.parametrize(
    "distance, label",
    [(0.1, 0), (7.999, 0), (8.0, 0), (8.001, 1), (8.5, 1), (8.501, 2), (9.0, 2), (9.001, 3), (9.5, 3)]
    + [(9.501, 4), (10.0, 4), (10.001, 5), (13.7, 5), (100.0, 5)],
)
def test_the_edges_of_the_bins(distance, label):
    """VTAB's rule, written out: the last threshold that lies below the distance."""
    thresholds = [0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0]
    assert distance_label(scene(distance)) == label == max(i for i, t in enumerate(thresholds) if t - distance < 0)


def test_the_closest_object_counts_wherever_it_stands_in_the_list():
    assert distance_label(scene(12, 9.2, 11)) == 3
    assert distance_label(scene(12, 11, 8.0)) == 0


def test_objects_are_counted_from_three():
    assert [count_label(scene(*[9] * n)) for n in range(3, 11)] == list(range(8))
    for count in (2, 11):
        with pytest.raises(ValueError):
            count_label(scene(*[9] * count))


def test_a_split_is_read_from_its_scenes(tmp_path, tiny_datasets):
    tiny_datasets.write_clevr(tmp_path, train=9, val=3)
    counts = clevr_split(tmp_path, "train", "count")
    assert counts.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0] and len(counts.classes) == 8
    distances = clevr_split(tmp_path / "CLEVR_v1.0", "val", "dist")
    scenes = json.loads((tmp_path / "CLEVR_v1.0" / "scenes" / "CLEVR_val_scenes.json").read_text())["scenes"]
    assert distances.labels.tolist() == [distance_label(s) for s in scenes] and len(distances.classes) == 6
    assert distances.name(1) == "CLEVR_val_000001.png" and distances.load(1).shape == (320, 480, 3)


def test_what_is_not_clevr_is_told(tmp_path, tiny_datasets):
    with pytest.raises(UserError, match="give the folder CLEVR_v1.0"):
        clevr_split(tmp_path, "train", "count")
    tiny_datasets.write_clevr(tmp_path, train=2, val=1)
    file = tmp_path / "CLEVR_v1.0" / "scenes" / "CLEVR_train_scenes.json"
    content = json.loads(file.read_text())
    del content["scenes"][1]["objects"][0]["pixel_coords"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"scenes\[1\] is not as CLEVR's are \('pixel_coords'\)"):
        clevr_split(tmp_path, "train", "dist")
    content["scenes"][0]["objects"] = []
    file.write_text(json.dumps(content))
    for question in ("count", "dist"):
        with pytest.raises(UserError, match=r"scenes\[0\] is not as CLEVR's are"):
            clevr_split(tmp_path, "train", question)
    file.write_text("{")
    with pytest.raises(UserError, match="not a CLEVR scene file"):
        clevr_split(tmp_path, "train", "dist")
