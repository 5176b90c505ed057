import pytest

from lab.report.run_files import number, read_metrics, read_run, read_yaml


def test_python_objects_in_a_config_are_left_out_and_not_made(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "train: {max_iter: 600, seed: 1}\n"
        "shape: !!python/object:detectron2.layers.shape_spec.ShapeSpec {channels: 96}\n"
        f"run: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n"
    )
    assert read_yaml(file) == {"train": {"max_iter": 600, "seed": 1}, "shape": None, "run": None}
    assert not (tmp_path / "made").exists()


def test_a_resumed_runs_metrics_count_once_and_in_order(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text('{"iteration": 9, "a": 1}\n{"iteration": 19, "a": 2}\n{"iteration": 9, "a": 3}\nbroken\n{"a": 4}\n')
    assert read_metrics(file) == [{"iteration": 9, "a": 3}, {"iteration": 19, "a": 2}]


@pytest.mark.parametrize("value", [None, "3", True, float("nan"), float("inf"), [1]])
def test_what_is_no_finite_number_is_none(value):
    assert number({"a": {"b": value}}, "a", "b") is None
    assert number({"a": {"b": 2}}, "a", "b") == 2.0 and number(None, "a") is None


def test_a_single_detector_counts_as_the_pretrained_one(tmp_path):
    folder = tmp_path / "detect"
    folder.mkdir()
    (folder / "result.json").write_text('{"bbox": {"AP": 1.5}}')
    run = read_run(tmp_path)
    assert run.detectors["pretrained"].result == {"bbox": {"AP": 1.5}} and run.detectors["scratch"].result == {}
    assert run.result == {} and run.pretrain.metrics == []
