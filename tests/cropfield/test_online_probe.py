"""The detection probe in whole runs of a tiny backbone: what it leaves, keeps and refuses, and that the run does not
feel it."""

import json
import logging
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageOps

from cropfield.online_probe import BEST, RECORD, OnlineDetectionProbe
from cropfield.probe import FIGURES, DetectionProbe
from cropfield.probe_images import tell_of_shared_images
from pretrain.data.images import open_source
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain
from pretrain.engine.trainer import PretrainTrainer
from pretrain.errors import UserError
from pretrain.files import sha256
from pretrain.models.weights import build_backbone, fill_backbone, read_backbone

NAMES = [name for name, _ in FIGURES]
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "cropfield_tiny.py"
SMALL = (
    "model.backbone.embed_dim=32", "model.backbone.depth=2", "model.backbone.num_heads=2",
    "model.backbone.drop_path_rate=0.2",
    "model.num_prototypes=32", "model.head_hidden_dim=32", "model.bottleneck_dim=16",
    "dataloader.train.batch_size=4", "dataloader.train.num_workers=0", "train.amp.enabled=False",
    "train.max_iter=4", "train.log_period=2", "train.checkpointer.period=1", "train.monitor.period=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, write_scenes) -> list[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("scenes")
    return [write_scenes(folder / name, count=6, seed=seed) for seed, name in enumerate(("train", "val", "unlabeled"))]


def run(scenes, output: Path, *overrides: str, resume: bool = False, probe: bool = True) -> dict:
    """The run's last state."""
    data = [f"dataloader.train.source.root={scenes[2][1]}", f"train.output_dir={output}"]
    if probe:
        names = ("train_json", "train_images", "val_json", "val_images")
        files = [f"train.detection_probe.{n}={f}" for n, f in zip(names, scenes[0] + scenes[1], strict=True)]
        data += [*files, "train.detection_probe.period=2", "train.detection_probe.image_size=64"]
    return torch.load(pretrain(load_config(CONFIG, [*data, *SMALL, *overrides]), resume), weights_only=True)


def flat(state, prefix: str = "") -> dict:
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, value in items for k, v in flat(value, f"{prefix}/{name}").items()}
    return {prefix: state}


def assert_same(a: dict, b: dict) -> None:
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]) if torch.is_tensor(value) else value == b[name], name


def record(output: Path) -> dict:
    return json.loads((output / RECORD).read_text())


@pytest.fixture
def told():
    """What is logged in a run."""
    said, handler = [], logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())
    for name in ("pretrain", "cropfield"):
        logging.getLogger(name).addHandler(handler)
    yield said
    for name in ("pretrain", "cropfield"):
        logging.getLogger(name).removeHandler(handler)


@pytest.fixture
def values(monkeypatch):
    """values(*aps): what the probes find, the first before the first step and of positions and colours."""

    def set_values(*aps: float) -> None:
        rest = iter(aps)
        monkeypatch.setattr(DetectionProbe, "measure", lambda self, features: dict.fromkeys(NAMES, next(rest)))

    return set_values


@pytest.fixture(scope="module")
def looked(scenes, tmp_path_factory) -> tuple[dict, Path]:
    """A run's last state and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "looked"
    return run(scenes, folder), folder


def test_a_run_does_not_feel_its_probe(scenes, looked, tmp_path):
    state, folder = looked
    assert_same(state, run(scenes, tmp_path, probe=False))
    found = record(folder)
    assert [probe["step"] for probe in found["probes"]] == [2, 4]
    assert 0 < found["start"]["patch_box_iou"] < 100 and found["start"] != found["lower_line"]
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert lines[-1]["probe/box_ap"] == found["probes"][-1]["box_ap"]
    log = (folder / "log.txt").read_text()
    ap = f"box AP {found['probes'][1]['box_ap']:.2f} (start {found['start']['box_ap']:.2f})"
    assert f"detection probe before the first step: box AP {found['start']['box_ap']:.2f}, AP50" in log
    assert f"detection probe after 4 steps: {ap}" in log
    assert f"detection probe: box_ap {found['probes'][1]['box_ap']:.3g}" in log  # in the summary


def test_a_run_that_was_cut_off_repeats_its_probes(scenes, looked, tmp_path, monkeypatch):
    original, calls = PretrainTrainer.run_step, []

    def cut_power(self):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(PretrainTrainer, "run_step", cut_power)
    with pytest.raises(KeyboardInterrupt):
        run(scenes, tmp_path)
    assert [probe["step"] for probe in record(tmp_path)["probes"]] == [2]
    state, folder = looked
    assert_same(state, run(scenes, tmp_path, resume=True))
    assert record(tmp_path) == record(folder)
    assert_same(*(torch.load(place / BEST, weights_only=True) for place in (tmp_path, folder)))


def test_a_probe_that_was_cut_off_after_its_checkpoint_is_made_up_for(scenes, tmp_path):
    run(scenes, tmp_path, "train.max_iter=2")
    found = record(tmp_path)
    (tmp_path / RECORD).write_text(json.dumps(found | {"probes": []}))
    (tmp_path / BEST).unlink()
    run(scenes, tmp_path, "train.max_iter=3", resume=True)
    assert record(tmp_path)["probes"][:1] == found["probes"] and (tmp_path / BEST).is_file()
    found = record(tmp_path)
    (tmp_path / RECORD).write_text(json.dumps(found | {"probes": found["probes"][:1]}))
    run(scenes, tmp_path, "train.max_iter=3", resume=True)  # no step is left, and step 3 is only due as the last
    assert record(tmp_path) == found


def test_a_probe_belongs_to_the_images_seen(scenes, tmp_path):
    """What steps are is another thing after a resume with another batch size."""
    hook = OnlineDetectionProbe(*scenes[0], *scenes[1], str(tmp_path))
    hook.trainer = SimpleNamespace(loader=SimpleNamespace(batch_size=2))
    figures = dict.fromkeys(NAMES, 1.0)
    probes = [{"step": 3, "images": 12, **figures}, {"step": 4, "images": 16, **figures}, {"step": 7, **figures}]
    written = {"settings": hook.settings, "start": None, "lower_line": None, "probes": probes}
    (tmp_path / RECORD).write_text(json.dumps(written))
    assert hook.read_record(6)["probes"] == probes[:1]
    assert hook.read_record(7)["probes"] == [probes[0], probes[2]]  # an older record's has no number of images
    assert [hook.step_of(probe) for probe in probes] == [6, 8, 7]
    hook.trainer.loader.batch_size = 5
    assert hook.read_record(2)["probes"] == probes[:1]


def test_the_best_backbone_is_kept_and_survives_a_resume(scenes, tmp_path, values, told):
    period, metric = "train.detection_probe.period=1", "train.detection_probe.metric=box_ap"
    values(0, 9, 3, 5)  # the start, at 9, was better than what was trained
    run(scenes, tmp_path, period, metric, "train.max_iter=2")
    (line,) = [text for text in told if "none has risen above" in text]
    assert "above box_ap 9.00 of the backbone before the first step" in line
    assert line.endswith(f"after it, 5.00, is {tmp_path / BEST}")
    kept = read_backbone(tmp_path / BEST)
    assert kept.metadata["iteration"] == "2" and kept.metadata["probe/box_ap"] == "5.0000"
    state = torch.load(tmp_path / "last.pth", weights_only=True)["model"]
    teacher = {n.removeprefix("teacher.backbone."): v for n, v in state.items() if n.startswith("teacher.backbone.")}
    assert_same(kept.state, teacher)
    backbone = build_backbone(kept)
    fill_backbone(backbone, kept)
    values(4, 5)
    run(scenes, tmp_path, period, metric, resume=True)
    assert read_backbone(tmp_path / BEST).metadata["iteration"] == "2"  # as good is not better
    values(10)
    told.clear()
    run(scenes, tmp_path, period, metric, "train.max_iter=5", resume=True)
    assert not any("none has risen" in text for text in told)
    assert read_backbone(tmp_path / BEST).metadata["iteration"] == "5"


@pytest.mark.parametrize("classes, best", [(3, "object_knn"), (1, "box_ap50")])
def test_neighbours_choose_the_best_by_default_where_there_are_classes(
    scenes, tmp_path, monkeypatch, told, classes, best
):
    """docs/results.md says why; an accuracy of one class is always 100."""
    files = [str(tmp_path / name) for name in ("train.json", "val.json")]
    for file, (original, _) in zip(files, scenes[:2], strict=True):
        content = json.loads(Path(original).read_text())
        kept = {category["id"] for category in content["categories"][:classes]}  # the others have no object
        content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] in kept]
        Path(file).write_text(json.dumps(content))
    better = iter([0, 0, 5, 3])  # the first two are before the first step

    def measure(probe, features) -> dict[str, float]:
        value = next(better)
        return dict.fromkeys(NAMES, 10.0 - value) | {best: value}

    monkeypatch.setattr(DetectionProbe, "measure", measure)
    data = [(file, folder) for file, (_, folder) in zip(files, scenes[:2], strict=True)]
    run([*data, scenes[2]], tmp_path / "run", "train.detection_probe.period=1", "train.max_iter=2")
    assert read_backbone(tmp_path / "run" / BEST).metadata["iteration"] == "1"
    assert record(tmp_path / "run")["settings"]["metric"] == best
    assert any(f"shows one class; {BEST} will be the best by box_ap50" in text for text in told) == (classes == 1)


def test_a_run_ends_when_patience_does(scenes, tmp_path, values, told):
    options = (
        "train.detection_probe.metric=box_ap", "train.detection_probe.period=1", "train.checkpointer.period=100",
        "train.detection_probe.patience=2",
    )  # fmt: skip
    values(0, 9, 3, 5, 5, 4, 100)
    state = run(scenes, tmp_path, *options, "train.max_iter=9")
    assert state["iteration"] == 4 and read_backbone(tmp_path / BEST).metadata["iteration"] == "2"
    (line,) = [text for text in told if "the run ends here" in text]
    assert "2 probes without a value above box_ap 5.00 of step 2" in line
    assert len([text for text in told if "none has risen above box_ap 9.00" in text]) == 1
    assert any(text.startswith("done: 4 steps") for text in told)
    assert not any(text.startswith("step 5/") for text in told)
    assert run(scenes, tmp_path, *options, "train.max_iter=9", resume=True)["iteration"] == 4
    resumed = run(scenes, tmp_path, *options[:2], "train.detection_probe.patience=3", "train.max_iter=5", resume=True)
    assert resumed["iteration"] == 5


def test_an_image_that_vanishes_costs_a_probe_and_not_the_run(scenes, tmp_path, told, monkeypatch):
    own = tmp_path / "val"
    shutil.copytree(Path(scenes[1][0]).parent, own)
    original = OnlineDetectionProbe.look
    monkeypatch.setattr(
        OnlineDetectionProbe, "look", lambda self, done: (shutil.rmtree(own / "images", True), original(self, done))
    )
    files = (str(own / "scenes.json"), str(own / "images"))
    assert run([scenes[0], files, scenes[2]], tmp_path / "run")["iteration"] == 4
    assert record(tmp_path / "run")["probes"] == [] and not (tmp_path / "run" / BEST).exists()
    assert sum("missing" in text and "there is no value of this step" in text for text in told) == 2
    assert "probe" not in next(text for text in told if text.startswith("done: "))  # those before the first step


def test_shared_images_are_told_and_allowed(scenes, tmp_path, told, write_scenes):
    files, images = write_scenes(tmp_path / "own", count=6, seed=2)  # as those that are pretrained on
    for number in (1, 2):  # two of them have other content
        other = Path(scenes[0][1], f"0_{number}.png")
        shutil.copy(other, Path(images, f"2_{number}.png"))
    Path(images, "2_3.png").rename(Path(images, "new.png"))
    Path(files).write_text(Path(files).read_text().replace("2_3.png", "new.png"))
    run([(files, images), *scenes[1:]], tmp_path / "run", "train.max_iter=1")
    (same,), (named,) = (
        [text for text in told if words in text] for words in ("are also pretrained on", "share only their names")
    )
    assert "4 of its 12 images" in same and "2 of its images share" in named


def test_images_to_fit_on_and_to_measure_on_are_told_apart(scenes, tmp_path, told):
    run([scenes[0], scenes[0], scenes[2]], tmp_path / "run", "train.max_iter=1")
    (line,) = [text for text in told if "its metrics are too high" in text]
    assert "6 of the detection probe's 6 validation images are training images too" in line


def test_images_in_shards_are_compared_by_name_alone_and_it_is_said(scenes, tmp_path, told):
    files = {sha256(file): file for file in sorted(Path(scenes[2][1]).iterdir())}
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for file in [*files.values()][:2]:
            tar.add(file, file.name)
    shards = str(tmp_path / "0.tar")
    tell_of_shared_images(files, open_source(shards))
    (line,) = told
    assert "not compared with those in tar shards; 2 of its images share a name with one there" in line
    told.clear()
    tell_of_shared_images(files, open_source([scenes[2][1], shards]))
    assert len(told) == 2 and "6 of its 6 images are also pretrained on" in told[0] and "shards; 2 of" in told[1]


def test_bad_input_is_refused_before_the_first_step(scenes, tmp_path, monkeypatch, write_scenes):
    def no_step(self):
        raise AssertionError("a step was made")

    monkeypatch.setattr(PretrainTrainer, "run_step", no_step)
    key = "train.detection_probe"

    def changed(name: str, change) -> str:
        content = json.loads(Path(scenes[0][0]).read_text())
        change(content)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return str(path)

    one = changed("one", lambda c: c.update(images=c["images"][:1], annotations=c["annotations"][:1]))
    empty = changed("empty", lambda c: c.update(annotations=[]))
    tiny = changed("tiny", lambda c: [a.update(bbox=[1, 1, 1, 1], area=1) for a in c["annotations"]])
    other = changed("other", lambda c: c["categories"][0].update(name="pink"))
    no_area = changed("no_area", lambda c: c["annotations"][0].pop("area"))
    for override, words in (
        (f"{key}.val_json=", f"needs two datasets: give {key}.val_json too"),
        (f"{key}.train_json={one}", "needs 2 images with an object .* 1 it looked at 1 qualify"),
        (f"{key}.train_json={empty}", "has no annotations"),
        (
            f"{key}.train_json={tiny}",
            "needs 2 images with an object .* 6 it looked at 0 qualify; give .* larger image size",
        ),
        (f"{key}.train_json={other}", f"^{key}: .* have different categories"),
        (f"{key}.train_json={tmp_path}/none.json", "cannot be read"),
        (f"{key}.train_images={tmp_path}/none", "is not a folder"),
        (f"{key}.val_images={scenes[2][1]}", "6 of 6 images of .* are not in"),
        (f"{key}.image_size=60", "image size, 60, is not a multiple of the backbone's patch, 8"),
        (f"{key}.train_limit=1", "needs 2 images"),
        (f"{key}.metric=ap", "detection_probe.metric is 'ap'"),
    ):
        with pytest.raises(UserError, match=words):
            run(scenes, tmp_path / "run", override)
    no_val = [scenes[0], (no_area, scenes[0][1]), scenes[2]]
    with pytest.raises(UserError, match='has no "area"'):
        run(no_val, tmp_path / "run")
    assert not (tmp_path / "run" / "last.pth").exists()
    for val_json, words in ((other, "have different categories"), (no_area, 'has no "area"')):
        with pytest.raises(UserError, match=words):  # already when the hook is made, which is before the model runs
            OnlineDetectionProbe(*scenes[0], val_json, scenes[0][1], str(tmp_path))


def test_a_single_image_to_measure_ap_on_is_told(scenes, tmp_path, told):
    run(scenes, tmp_path / "run", "train.detection_probe.val_limit=1", "train.max_iter=1")
    assert any(f"{scenes[1][0]}: the detection probe's AP is that of a single image" in text for text in told)


@pytest.mark.parametrize(
    "figures", ["{", "[]", {"object_knn": "x"}, {"box_ap": 1.0}, {"object_knn": 1.0, "box_ap": None}]
)
def test_a_damaged_record_is_told(scenes, tmp_path, figures):
    hook = OnlineDetectionProbe(*scenes[0], *scenes[1], str(tmp_path))
    record = {"settings": hook.settings, "start": figures, "lower_line": None, "probes": []}
    (tmp_path / RECORD).write_text(figures if isinstance(figures, str) else json.dumps(record))
    with pytest.raises(UserError, match="is damaged .*; put a good one back, or move"):
        hook.read_record(2)


def test_an_older_record_without_the_rank_is_gone_on_with(scenes, tmp_path):
    run(scenes, tmp_path, "train.max_iter=2")
    older = record(tmp_path)
    del older["settings"]["contents"]
    for figures in (older["start"], older["lower_line"], *older["probes"]):
        del figures["object_rank"]
    (tmp_path / RECORD).write_text(json.dumps(older))
    run(scenes, tmp_path, resume=True)
    found = record(tmp_path)
    assert found["start"] == older["start"] and ["object_rank" in probe for probe in found["probes"]] == [False, True]
    assert len(found["settings"]["contents"]) == 2


def test_an_older_record_of_another_metric_is_not_called_damaged(scenes, tmp_path):
    run(scenes, tmp_path, "train.max_iter=2", "train.detection_probe.metric=box_ap50")
    older = record(tmp_path)
    for figures in (older["start"], older["lower_line"], *older["probes"]):
        del figures["object_knn"], figures["object_rank"]
    (tmp_path / RECORD).write_text(json.dumps(older))
    with pytest.raises(UserError, match="is of a probe with metric box_ap50, not object_knn; go on with the former"):
        run(scenes, tmp_path, resume=True)


def test_a_probe_of_changed_files_replaces_nothing(scenes, tmp_path):
    shutil.copytree(Path(scenes[1][0]).parent, tmp_path / "val")
    file, output = tmp_path / "val" / "scenes.json", tmp_path / "run"
    own = [scenes[0], (str(file), str(tmp_path / "val" / "images")), scenes[2]]
    run(own, output, "train.max_iter=2")
    changes = [file, *sorted((tmp_path / "val" / "images").iterdir())[:1]]
    for path in changes:
        before = path.read_bytes()
        if path == file:
            path.write_text(json.dumps(json.loads(before) | {"annotations": json.loads(before)["annotations"][1:]}))
        else:
            ImageOps.mirror(Image.open(path)).save(path)
        with pytest.raises(UserError, match="is of a probe with other images or annotations; go on with the former"):
            run(own, output, resume=True)
        path.write_bytes(before)
    (tmp_path / "val").rename(tmp_path / "moved")
    own[1] = str(tmp_path / "moved" / "scenes.json"), str(tmp_path / "moved" / "images")
    run(own, output, resume=True)
    assert [probe["step"] for probe in record(output)["probes"]] == [2, 4]


def test_a_best_backbone_without_its_record_is_not_replaced(scenes, tmp_path):
    run(scenes, tmp_path, "train.max_iter=2")
    (tmp_path / RECORD).rename(tmp_path / "record")
    before = (tmp_path / BEST).read_bytes()
    with pytest.raises(UserError, match=f"{BEST} is of a probe whose {RECORD} is missing; put it back, or move"):
        run(scenes, tmp_path, resume=True)
    assert (tmp_path / BEST).read_bytes() == before


def test_a_run_that_was_killed_before_its_first_checkpoint_keeps_its_probe(scenes, tmp_path):
    run(scenes, tmp_path, "train.max_iter=2")
    (tmp_path / "last.pth").unlink()
    with pytest.raises(UserError, match="is of a probe with metric object_knn, not box_ap; go on"):
        run(scenes, tmp_path, "train.detection_probe.metric=box_ap", resume=True)
    run(scenes, tmp_path, resume=True)
    assert [probe["step"] for probe in record(tmp_path)["probes"]] == [2, 4]


@pytest.mark.parametrize("change", ["train_limit=4", "metric=patch_class_accuracy", "val_json=other.json", "layers=2"])
def test_a_probe_of_other_settings_replaces_nothing(scenes, tmp_path, change, monkeypatch):
    run(scenes, tmp_path / "run", "train.max_iter=2")
    monkeypatch.chdir(tmp_path)
    labels = json.loads(Path(scenes[1][0]).read_text())
    Path("other.json").write_text(json.dumps(labels | {"annotations": labels["annotations"][1:]}))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*detection*")}
    assert len(before) == 2
    with pytest.raises(UserError, match="is of a probe with (other|.*, not) .*; go on .* or move detection_"):
        run(scenes, tmp_path / "run", f"train.detection_probe.{change}", resume=True)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
    for name in before:
        (tmp_path / "run" / name).rename(tmp_path / name)
    run(scenes, tmp_path / "run", f"train.detection_probe.{change}", resume=True)
    found = record(tmp_path / "run")
    assert [probe["step"] for probe in found["probes"]] == [2, 4] and found["start"] is None
