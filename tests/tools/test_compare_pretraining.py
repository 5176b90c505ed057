"""The comparison: its stages, what it does with those that are done. Training tools are stand-ins that keep count."""

import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from cropfield import halves
from lab import correlation
from lab.ablation import PROBES, Interval
from lab.comparison_report import probes
from lab.correlation import Correlation
from lab.label_shares import few_images
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone

PRETRAIN = """
import json, pathlib, sys
said = dict(word.split("=", 1) for word in sys.argv if "=" in word)
folder = pathlib.Path(said["train.output_dir"])
if (folder.parent / "fail_pretraining").exists():
    sys.exit("error: told to fail")
folder.mkdir(exist_ok=True)
one_class = (folder.parent / "one_class").exists()
for name in ("last.pth", "initial.safetensors"):
    (folder / name).write_text(said["train.seed"])
if period := int(said.get("train.detection_probe.period", 0)):
    seed = int(said["train.seed"])

    def values(ap):
        return dict(box_ap50=ap + seed, object_knn=100.0 if one_class else 2 * (ap + seed), object_rank=1)
    assert said["train.detection_probe.val_json"] and said["train.detection_probe.image_size"] == "128"
    steps = (period, 9)[:seed]  # the first seed stops early
    probes = [dict(step=step, images=16 * step, **values(step - 0.5)) for step in steps]
    (folder / "detection_probe.json").write_text(json.dumps(dict(start=values(0.5), probes=probes)))
with open(folder.parent / "calls.txt", "a") as calls:
    calls.write(folder.name + "\\n")
"""
# AP: the seed, 10 more where pretrained, 1 more with config b, 5 more where fine-tuned; from scratch 8 and the seed.
DETECT = """
import json, pathlib, sys
said = dict(word.split("=", 1) for word in sys.argv if "=" in word)
folder, weights = pathlib.Path(said["train.output_dir"]), pathlib.Path(said["train.init_checkpoint"].strip('"'))
if (folder.parent / "fail").exists() and "initial" in weights.name:
    sys.exit("error: told to fail")
scratch = "scratch" in folder.name
assert scratch == (weights == pathlib.Path("")) and (scratch or weights.read_text() == said["train.seed"])
json.loads(pathlib.Path(said["dataset.train_json"]).read_text())
ap = int(said["train.seed"]) + 10 * ("last" in weights.name) + weights.parent.name.startswith("b_")
folder.mkdir(exist_ok=True)
ap += 5 * (said["train.freeze_backbone"] == "False") + 3 * scratch
(folder / "result.json").write_text(json.dumps({"bbox": {"AP": ap}}))
with open(folder.parent / "calls.txt", "a") as calls:
    calls.write(folder.name + "\\n")
"""
# AP50: 42 where pretrained, else 40, k-NN twice that; then the baseline.
PROBE = """
import json, pathlib, sys
output = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
aps = [40 + 2 * ("last" in word) for word in sys.argv[1:3]]
rows = [dict(box_ap50=ap, object_knn=100.0 if (output.parent / "one_class").exists() else 2 * ap) for ap in aps]
output.write_text(json.dumps(dict(backbones=[*rows, rows[0]])))
with open(output.parent / "calls.txt", "a") as calls:
    calls.write(output.stem + "\\n")
"""


@pytest.fixture
def compare(load_tool, small_coco, tmp_path, monkeypatch):
    """compare(*arguments) runs the tool, with stand-ins for pretraining, detection and probe."""
    tool, checked, repository = load_tool("compare_pretraining"), [], tmp_path / "repository"
    stand_ins = {"tools/pretrain_net.py": PRETRAIN, "tools/lazyconfig_train_net.py": DETECT}
    for name, text in {**stand_ins, "projects/CropField/tools/probe_detection.py": PROBE}.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    (repository / "configs").symlink_to(tool.REPOSITORY / "configs")
    monkeypatch.setattr(tool, "REPOSITORY", repository)
    monkeypatch.setattr(halves, "check_chain", lambda *arguments: checked.append(arguments))
    labels = ["json", small_coco / "labels.json"], ["images", small_coco]
    data = [word for split in ("train", "val") for kind, path in labels for word in (f"--{split}-{kind}", str(path))]

    def run(*arguments):
        call = ["compare_pretraining.py", "--configs", "a.py", "b.py", "--images", str(tmp_path), *data]
        monkeypatch.setattr("sys.argv", [*call, "--output", str(tmp_path / "out"), *arguments])
        tool.main()

    run.checked = checked
    return run


def calls(tmp_path) -> list[str]:
    return (tmp_path / "out" / "calls.txt").read_text().split()


def test_each_config_and_seed_has_its_twin_and_every_task(compare, tmp_path, capsys):
    compare("--seeds", "2", "--labels", "0.5", "1", "--jobs", "2")
    done = calls(tmp_path)
    assert len(done) == len(set(done)) == 2 * (2 * (1 + 2 * 2 * 2 + 1) + 2)
    assert sorted(done[:4]) == ["a_seed1", "a_seed2", "b_seed1", "b_seed2"]
    assert len(compare.checked) == 2 and all("train_0.5" not in str(stage) for _, stage, *_ in compare.checked)
    half = json.loads((tmp_path / "out" / "train_0.5.json").read_text())
    assert len(half["images"]) == 2
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (one,) = [
        figure["ap"]
        for figure in found
        if (figure["config"], figure["start"], figure["task"], figure["seed"])
        == ("b", "pretrained", "fine-tuned, 50% of labels", 2)
    ]
    assert one == 2 + 10 + 1 + 5
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert (
        "Mean over 2 seeds ±" in text and "| 12.50 ± " in text and "10.00 ± 0.00" in text
    )  # mean of b frozen; gain over the twin in each seed
    assert "b is above a by 1.00 ± 0.00 box AP" in text and text in capsys.readouterr().out
    assert "probe (box AP50): every pretraining gains" in text
    assert (
        "\n```\ntools/compare_pretraining.py --configs a.py b.py " in text and "--labels 0.5 1 --jobs 2\n```\n" in text
    )
    gains = [line.split("|")[-3:-1] for line in text.splitlines() if "gain" in line and "|" in line]
    assert [[cell.strip() for cell in row] for row in gains] == [["4.00 ± 0.00", "2.00 ± 0.00"]] * 2
    assert (
        "over its initial values; b is above a by 1.00 ± 0.00 box AP. Over training from scratch: a gains 7.00" in text
    )
    assert [line.split("|")[-4].strip() for line in text.splitlines() if "scratch" in line and "|" in line] == [
        "7.00 ± 0.00", "8.00 ± 0.00", f"{Interval.of([9, 10])}"
    ]  # fmt: skip
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 1000


def test_the_probe_alone_trains_no_detector(compare, tmp_path):
    compare("--seeds", "1", "--modes", "probe")
    assert calls(tmp_path) == ["a_seed1", "b_seed1", "a_seed1_probe", "b_seed1_probe"] and len(compare.checked) == 2
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| 84.00 " in text and "| 42.00 " in text
    for file in (tmp_path / "out").glob("*_probe.json"):  # as a former version wrote them
        file.write_text(file.read_text().replace("object_knn", "other"))
    compare("--seeds", "1", "--modes", "probe")
    assert "k-NN" not in (tmp_path / "out" / "comparison.md").read_text() and len(calls(tmp_path)) == 4


def test_the_probe_is_measured_during_pretraining_too(compare, tmp_path, capsys):
    compare("--seeds", "2", "--modes", "probe", "--probe-period", "4")
    text = (tmp_path / "out" / "comparison.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| a ")]
    assert lines[-2:] == [
        ["a", "0", f"{Interval.of([3, 5])}", "", f"{Interval.of([1.5, 2.5])}", ""],
        ["a", "64", f"{Interval.of([9, 11])}", "6.00 ± 0.00", f"{Interval.of([4.5, 5.5])}", "3.00 ± 0.00"],
    ]  # at 144 there is one seed alone
    assert (tmp_path / "out" / "probe_curves.png").stat().st_size > 1000
    record = tmp_path / "out" / "a_seed1" / "detection_probe.json"
    for content in ("{", "{}", '{"start": null, "probes": []}'):
        record.write_text(content)
        compare("--seeds", "2", "--modes", "probe", "--probe-period", "4")
        assert "detection_probe.json is missing or damaged: a_seed1 has no curve" in capsys.readouterr().err
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| 144 " in text and "| 84.00 ± 0.00" in text  # the other seed alone


def test_what_the_probe_would_refuse_is_refused_before_any_work(compare, small_coco, tmp_path):
    content, train = json.loads((small_coco / "labels.json").read_text()), tmp_path / "one.json"
    one = content["images"][0]["id"]
    objects = [entry for entry in content["annotations"] if entry["image_id"] == one]
    train.write_text(json.dumps(content | {"images": content["images"][:1], "annotations": objects}))
    for words, arguments in (
        ("the detection probe needs 2 images", ["--train-json", str(train)]),
        ("reads RGB, not 4 bands: leave probe out of --modes", ["detect.model.backbone.net.in_chans=4"]),
    ):
        with pytest.raises(UserError, match=words):
            compare("--seeds", "1", *arguments)
        assert not (tmp_path / "out").exists()
        compare("--seeds", "1", *arguments, "--modes", "frozen", "--output", str(tmp_path / f"other{len(arguments)}"))


def test_k_nn_of_one_class_is_not_shown(compare, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "one_class").write_text("")
    compare("--seeds", "1", "--modes", "probe", "--probe-period", "4")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "k-NN" not in text and "| a             | 64            | 4.50 " in text


def test_each_metric_is_correlated_with_each_ap(compare, tmp_path):
    out = tmp_path / "out"
    compare("--seeds", "1", "--labels", "0.5", "1")
    text, figures = (out / "comparison.md").read_text(), json.loads((out / "comparison.json").read_text())
    of = {(f["config"], f["start"], f["task"]): f["ap"] for f in figures}
    backbones = [(config, start) for config in "ab" for start in ("pretrained", "untrained")]
    knn, aps = ([of[*backbone, task] for backbone in backbones] for task in ("probe (k-NN of objects)", "frozen"))
    (line,) = [line for line in text.splitlines() if line.startswith("| object_knn")]
    assert len(line.split("|")) == 2 + 1 + 4 and f"| {Correlation.of(knn, aps)}" in line
    (row,) = [line for line in text.splitlines() if line.startswith("| a pretrained, seed 1")]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["42", "84", "11", "16", "11", "16"]
    assert "| AP, frozen, 50% of labels " in text and "rank correlation over 4 backbones" in text
    assert (out / "correlation.png").stat().st_size > 1000


def test_in_the_picture_seeds_of_an_arm_look_the_same(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: shown.append(figure))
    arms = ["a pretrained"] * 2 + ["a untrained"] * 2
    rows = [{"backbone": f"{arm}, {at}", "arm": arm, "metric": at, "AP": at**2} for at, arm in enumerate(arms)]
    for given in (rows, [{**row, "arm": row["backbone"]} for row in rows]):
        correlation.plot(given, ["metric"], ["AP"], tmp_path / "correlation.png")
    colours = [[str(dots.get_facecolor()) for dots in figure.axes[0].collections] for figure in shown]
    assert colours[0][0] == colours[0][1] != colours[0][2] == colours[0][3] and len(set(colours[1])) == 4
    assert [text.get_text() for text in shown[0].legends[0].get_texts()] == ["a pretrained", "a untrained"]


def test_overrides_may_stand_behind_a_list(load_tool):
    words = [
        "--configs",
        "a.py",
        "pretrain.train.max_iter=4",
        "--images",
        "I",
        "--train-json",
        "T",
        "--train-images",
        "T",
    ]
    words += ["--val-json", "V", "--val-images", "V", "--output", "O", "--labels", "0.5", "detect.train.max_iter=5"]
    args = load_tool("compare_pretraining").parse_args(words)
    assert args.overrides == ["pretrain.train.max_iter=4", "detect.train.max_iter=5"]
    assert args.labels == [0.5] and args.configs == [Path("a.py")]


def test_a_share_given_twice_is_one_and_small_ones_keep_their_names(compare, tmp_path):
    compare("--seeds", "1", "--labels", "0.002", "0.004", "0.002", "--modes", "frozen", "frozen", "--jobs", "3")
    assert len(calls(tmp_path)) == 2 + 2 * 2 * 2
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| frozen, 0.2% of labels" in text and "| frozen, 0.4% of labels" in text


def test_a_share_without_an_object_is_refused_and_the_others_are_counted(compare, small_coco, tmp_path, capsys):
    content = json.loads((small_coco / "labels.json").read_text())
    few = few_images(content, 0.25)["images"][0]["id"]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != few]
    train = tmp_path / "few.json"
    train.write_text(json.dumps(content))
    with pytest.raises(UserError, match="--labels 0.25: 1 of the 4 images of .*few.json .* no object; give a larger"):
        compare("--labels", "1", "0.25", "--train-json", str(train))
    assert not (tmp_path / "out").exists()
    compare("--seeds", "1", "--labels", "0.5", "--train-json", str(train), "--modes", "frozen")
    line = next(line for line in capsys.readouterr().out.splitlines() if "of the labels" in line)
    assert line.startswith(f"50% of the labels: 2 of the 4 images of {train}; objects: 1; none of ")
    train.write_text(json.dumps(content | {"annotations": content["annotations"][1:]}))
    with pytest.raises(UserError, match=f"of before {train} was changed"):
        compare("--seeds", "1", "--labels", "0.5", "--train-json", str(train), "--modes", "frozen")


def test_a_subset_of_before_is_made_again_until_a_stage_has_begun_with_it(compare, small_coco, tmp_path):
    content = json.loads((small_coco / "labels.json").read_text())
    files = [tmp_path / f"train{number}.json" for number in range(3)]
    for number, file in enumerate(files):
        objects = [entry | {"area": entry["area"] + number} for entry in content["annotations"]]
        file.write_text(json.dumps(content | {"annotations": objects}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fail_pretraining").write_text("")
    options = "--seeds", "1", "--labels", "0.75", "--modes", "frozen"
    with pytest.raises(UserError, match="a_seed1 stage stopped"):
        compare(*options, "--train-json", str(files[0]))
    subset = tmp_path / "out" / "train_0.75.json"
    before = subset.read_text()
    (tmp_path / "out" / "fail_pretraining").unlink()
    compare(*options, "--train-json", str(files[1]))
    assert subset.read_text() != before
    before = calls(tmp_path)
    compare(*options, "--train-json", str(files[1]))  # the same command finds all done
    assert calls(tmp_path) == before
    with pytest.raises(
        UserError, match="a_seed1_pretrained_frozen_0.75 was begun with .*train_0.75.json, which --train"
    ):
        compare(*options, "--train-json", str(files[2]))


@pytest.mark.parametrize("modes, frozen", [(["frozen"], "True"), (["frozen", "probe"], "True"), (["probe"], "False"),
                                           (["frozen", "fine-tuned"], "False")])  # fmt: skip
def test_the_detector_that_is_checked_is_one_that_is_trained(compare, modes, frozen):
    """With frozen ones alone a feature cache may be given."""
    compare("--seeds", "1", "--modes", *modes)
    assert all(f"train.freeze_backbone={frozen}" in stage.command for _, stage, *_ in compare.checked)


def test_what_is_done_so_far_is_in_the_report(compare, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fail").write_text("")
    with pytest.raises(UserError, match="told to fail"):
        compare("--seeds", "1")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text.startswith("After 3 of 13 stages. ") and "| 11.00 " in text and "One seed has no interval" in text
    assert "significant" not in text
    (tmp_path / "out" / "fail").unlink()
    compare("--seeds", "1")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "After" not in text and text in capsys.readouterr().out
    (tmp_path / "out" / "fail").write_text("")
    with pytest.raises(UserError, match="told to fail"):
        compare("--seeds", "3")  # after a detector of seed 2, and none of seed 3
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text.startswith("After 18 of 39 stages. ") and "Mean over up to 2 seeds ±" in text
    assert "significant" in text


def test_what_is_done_stays_and_more_seeds_may_follow(compare, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fail").write_text("")
    with pytest.raises(UserError, match="a_seed1_untrained_frozen_1 stage stopped: told to fail"):
        compare("--seeds", "1")
    assert calls(tmp_path) == ["a_seed1", "b_seed1", "a_seed1_pretrained_frozen_1"]
    (tmp_path / "out" / "fail").unlink()
    compare("--seeds", "1")
    assert len(calls(tmp_path)) == len(set(calls(tmp_path))) == 2 + 8 + 1 + 2
    compare("--seeds", "2")
    assert len(calls(tmp_path)) == len(set(calls(tmp_path))) == 2 * (2 + 8 + 1 + 2)


@pytest.mark.parametrize("name", ["comparison.md", "train_0.5.json", "a_seed1.log"])
def test_files_of_others_stay_as_they_are(compare, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists, and would be written over"):
        compare("--seeds", "1", "--labels", "0.5")
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [(name, "mine")]


def test_a_detectors_config_is_one_of_the_projects_or_any_file(load_tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    tool = load_tool("compare_pretraining")
    words = ["--configs", "a.py", "--images", "I", "--train-json", "T", "--train-images", "T", "--val-json", "V"]
    words += ["--val-images", "V", "--output", "OUT"]
    for given, meant in (
        ("mine.py", tmp_path),
        ("faster_rcnn_cropfield_vits_12ep.py", tool.REPOSITORY / "configs/COCO"),
    ):
        comparison = tool.Comparison(tool.parse_args([*words, "--detector", given]))
        *_, stage = next(comparison.detectors(Path("a.py"), 1))
        assert stage.command[stage.command.index("--config-file") + 1] == str(meant / given)


def test_the_probe_measures_both_starts_at_the_detectors_image_size(load_tool, run_tool, small_coco, tmp_path):
    torch.manual_seed(0)
    backbone = VisionTransformer(patch_size=8, embed_dim=32, depth=1, num_heads=2, field_size=4)
    run = tmp_path / "out" / "a_seed1"
    run.mkdir(parents=True)
    for name in ("last.pth", "initial.safetensors"):
        write_backbone(run / name, backbone.state_dict(), backbone.metadata)
    data = [
        f"--{s}-{k}={p}"
        for s in ("train", "val")
        for k, p in (("json", small_coco / "labels.json"), ("images", small_coco))
    ]
    tool = load_tool("compare_pretraining")
    args = [
        "--configs",
        "a.py",
        "--images",
        "I",
        *data,
        "--output",
        str(tmp_path / "out"),
        "detect.dataloader.image_size=64",
    ]
    comparison = tool.Comparison(tool.parse_args([*args, "--seeds", "1"]))
    file, stage = comparison.probe(Path("a.py"), 1)
    for _ in range(2):  # killed before the chain had noted its end, it runs again
        run_tool("probe_detection", *stage.command[1:])
    found = json.loads(file.read_text())
    assert found["settings"]["image_size"] == 64 and "overwrite" not in found["settings"]
    assert [Path(row["backbone"]).name for row in found["backbones"][:2]] == ["last.pth", "initial.safetensors"]
    assert [row for *_, row in probes(comparison, [stage.name])] == found["backbones"][:2]
    assert set(PROBES) < set(found["backbones"][0])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--seeds", "0"], "--seeds 0: give 1 or more"),
        (["--jobs", "0"], "--jobs 0: give 1 or more"),
        (["--probe-period", "-1"], "--probe-period -1: give a number of steps, or 0"),
        (["--labels", "1.5"], "--labels 1.5: give fractions"),
        (["--configs", "a.py", "c/a.py"], "two are called 'a'"),
        (["train.max_iter=5"], "start an override with pretrain. or detect. to say"),
        (["pretrain.train.seed=7"], "pretrain.train.seed is not to be given here, because --seeds says"),
        (["detect.train.freeze_backbone=True"], "because --modes says what it is"),
        (["pretrain.train.detection_probe.period=3"], "because --probe-period says what it is"),
        (["pretrain.dataloader.train.source.root=x"], "because --images says what it is"),
    ],
)
def test_mistakes_are_told_before_any_work(compare, tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        compare(*arguments)
    assert not (tmp_path / "out").exists()
