"""The sweep: its grid, its commands, what it does with runs that are done. The runs are stand-ins that keep count."""

import json

import pytest

from pretrain.errors import UserError

RUN = """
import json, pathlib, sys
said = dict(word.split("=", 1) for word in sys.argv if "=" in word)
folder = pathlib.Path(said["train.output_dir"])
folder.mkdir()
with open(folder.parent / "calls.txt", "a") as calls:
    calls.write(folder.name + "\\n")
if said["optimizer.lr"] == said.get("train.wandb.project"):
    sys.exit("error: told to fail")
figure = 40 + 1e5 * float(said["optimizer.lr"]) + float(said["train.seed"])
result = dict(protocol="semantic_seg", dataset="ade20k", model="vits", metrics=dict(mIoU=figure), settings={})
(folder / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture
def sweep(load_tool, tmp_path, monkeypatch):
    """sweep(*arguments) runs the tool, with a stand-in for the training tool."""
    tool = load_tool("sweep")
    (tmp_path / "train.py").write_text(RUN)
    monkeypatch.setattr(tool, "TOOL", tmp_path / "train.py")
    config = tool.REPOSITORY / "projects" / "Lab" / "configs" / "ADE20K" / "semantic_linear_cropfield_tiny.py"

    def run(*arguments):
        call = ["sweep.py", "--config-file", str(config), "--output", str(tmp_path / "out"), *arguments]
        monkeypatch.setattr("sys.argv", call)
        tool.main()

    return run


def calls(tmp_path) -> list[str]:
    return (tmp_path / "out" / "calls.txt").read_text().split()


def test_the_default_is_the_papers_grid(load_tool):
    tool = load_tool("sweep")
    grid = tool.settings_of(list(tool.GRID))
    assert len(grid) == len(set(grid)) == 8
    assert {tuple(float(text.partition("=")[2]) for text in setting) for setting in grid} == {
        (lr, decay) for lr in (8e-5, 3e-5, 1e-5, 8e-6) for decay in (1e-2, 1e-4)
    }
    args = tool.parse_args(["--config-file", "c.py", "--output", "out", "train.init_checkpoint=t.pth"])
    stages = [stage for runs in tool.make_stages(args).values() for stage in runs]
    assert len({stage.name for stage in stages}) == 16 and stages[1].name == "lr_8e-5_weight_decay_1e-2_run2"
    assert {"--resume", "optimizer.lr=8e-5", "train.seed=2", "train.init_checkpoint=t.pth"} <= set(stages[1].command)


def test_it_runs_each_once_and_ends_with_table_and_best(sweep, tmp_path, capsys):
    grid = ["--grid", "optimizer.lr=1e-5,8e-5", "--grid", "optimizer.weight_decay=0.5"]
    sweep(*grid)
    assert len(calls(tmp_path)) == 4 and "(stage 4 of 4)" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["metrics"] == {"mIoU": pytest.approx(49.5)} and result["model"] == "vits"
    assert result["settings"]["best"] == ["optimizer.lr=8e-5", "optimizer.weight_decay=0.5"]
    assert result["settings"]["runs"] == pytest.approx([49, 50])
    last = (tmp_path / "out" / "sweep.md").read_text().splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == ["8e-5", "0.5", "49.00", "50.00", "**49.50**"]
    sweep(*grid)
    assert "best: optimizer.lr=8e-5" in capsys.readouterr().out
    assert len(calls(tmp_path)) == 4


def test_a_table_of_others_stays_as_it_is(sweep, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.md").write_text("mine")
    with pytest.raises(UserError, match="sweep.md exists, and would be written over"):
        sweep("--grid", "optimizer.lr=1e-5", "--runs", "1")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sweep.md"]


def test_a_failed_run_stops_it_and_the_next_call_goes_on_from_there(sweep, tmp_path):
    grid = ["--grid", "optimizer.lr=1e-5,8e-5", "--runs", "1", "train.wandb.project=8e-5"]
    with pytest.raises(UserError, match="lr_8e-5_run1 stage stopped: told to fail"):
        sweep(*grid)
    assert calls(tmp_path) == ["lr_1e-5_run1", "lr_8e-5_run1"]
    (tmp_path / "train.py").write_text(RUN.replace("folder.mkdir()", "").replace("sys.exit", "print"))
    sweep(*grid)
    assert calls(tmp_path) == ["lr_1e-5_run1", "lr_8e-5_run1", "lr_8e-5_run1"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--grid", "optimizer.lr"], "write KEY=VALUE,VALUE"),
        (["--grid", "optimizer.lrr=1"], "did you mean optimizer.lr"),
        (["--runs", "0"], "at least one run"),
        (["--grid", "train.seed=5,6"], "train.seed is not to be given here, because --runs says"),
        (["train.seed=5"], "train.seed is not to be given here, because --runs says"),
        (["--grid", "train.init_checkpoint=a/b.pth,a-b.pth"], "two runs would be called init_checkpoint_a-b.pth_run1"),
        (["dataset.rot=x"], "did you mean dataset.root"),
    ],
)
def test_mistakes_are_told_before_the_first_run(sweep, tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        sweep(*arguments)
    assert not (tmp_path / "out").exists()


def test_a_figure_that_the_runs_lack(sweep, tmp_path):
    with pytest.raises(UserError, match="has no metric 'AP'"):
        sweep("--grid", "optimizer.lr=1e-5", "--runs", "1", "--metric", "AP")


FIGURES = {
    ("optimizer.lr=8e-5", "optimizer.weight_decay=1e-2"): [40.0, 44.0],
    ("optimizer.lr=3e-5", "optimizer.weight_decay=1e-2"): [43.0, 42.0],
    ("optimizer.lr=1e-5", "optimizer.weight_decay=1e-2"): [50.0, None],
}


def test_the_table_has_each_run_and_marks_the_best_mean_which_no_run_without_figure_wins(load_tool):
    lines = load_tool("sweep").markdown_table(FIGURES, "mIoU").splitlines()
    head, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert head == ["optimizer.lr", "optimizer.weight_decay", "mIoU, run 1", "mIoU, run 2", "mean"]
    assert len(rule) == 5 and all(set(cell) == {"-"} for cell in rule)
    assert rows == [
        ["8e-5", "1e-2", "40.00", "44.00", "42.00"],
        ["3e-5", "1e-2", "43.00", "42.00", "**42.50**"],
        ["1e-5", "1e-2", "50.00", "–", "–"],
    ]
