import json

import pytest

from cropfield.stages import Chain, Stage, digest, read_result
from pretrain.errors import UserError


def script(tmp_path, name, text):
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    return file


def test_a_stage_runs_once_and_is_remembered(tmp_path, capsys):
    marks = tmp_path / "marks"
    stage = Stage("mark", (str(script(tmp_path, "mark", f"open({str(marks)!r}, 'a').write('x'); print('hello')")),))
    chain = Chain(tmp_path / "out")
    chain.run(stage)
    Chain(tmp_path / "out").run(stage)
    assert marks.read_text() == "x"
    assert "mark | hello" in capsys.readouterr().out
    assert (tmp_path / "out" / "mark.log").read_text() == "hello\n"
    assert Chain(tmp_path / "out").seconds["mark"] > 0


def test_planned_stages_are_counted(tmp_path, capsys):
    stages = [Stage(name, (str(script(tmp_path, "ok", "")), name)) for name in ("one", "two")]
    chain = Chain(tmp_path / "out")
    chain.plan(stages)
    for stage in (*stages, stages[0]):
        chain.run(stage)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("==")]
    assert told[:2] == ["== one (stage 1 of 2)", "== two (stage 2 of 2)"]
    assert told[2].startswith("== one (stage 1 of 2): done already")
    with pytest.raises(UserError, match="of another command"):
        chain.plan([Stage("one", ("other.py",))])


def test_what_differs_in_a_begun_stages_command_is_named(tmp_path):
    file = str(script(tmp_path, "ok", ""))
    Chain(tmp_path).run(Stage("work", (file, "a=1", "b=2")))
    with pytest.raises(UserError, match="holds a work stage of another command: with b=2, and not 'b=3 4'; give what"):
        Chain(tmp_path).plan([Stage("work", (file, "a=1", "b=3 4"))])


def test_a_begun_stage_is_not_gone_on_with_where_an_input_has_changed(tmp_path):
    data, file = tmp_path / "labels.json", str(script(tmp_path, "ok", ""))
    data.write_text("before")
    stage = Stage("work", (file,), inputs=(data,))
    Chain(tmp_path).run(stage)
    digest.cache_clear()  # as in another process
    Chain(tmp_path).run(stage)
    data.write_text("after")
    digest.cache_clear()
    with pytest.raises(
        UserError, match="holds a work stage of before .*labels.json was changed; .* choose another --output"
    ):
        Chain(tmp_path).run(stage)
    record = json.loads((tmp_path / "stages.json").read_text())
    del record["work"]["inputs"]  # of an earlier version
    (tmp_path / "stages.json").write_text(json.dumps(record))
    Chain(tmp_path).run(stage)


def test_another_command_for_a_begun_stage_is_refused(tmp_path):
    file = str(script(tmp_path, "ok", ""))
    Chain(tmp_path / "out").run(Stage("work", (file,)))
    with pytest.raises(UserError, match="of another command"):
        Chain(tmp_path / "out").run(Stage("work", (file, "other")))


@pytest.mark.parametrize("text", ['{"work": ', "[1]", '{"work": 1}', '{"work": {"command": ["x"]}}', "7", "null"])
def test_a_damaged_record_is_told(tmp_path, text):
    (tmp_path / "stages.json").write_text(text)
    with pytest.raises(UserError, match=r"stages\.json is damaged"):
        Chain(tmp_path)


def test_files_of_others_stay_as_they_are(tmp_path):
    (tmp_path / "result.json").write_text("mine")
    with pytest.raises(UserError, match=r"result\.json exists, and would be written over"):
        Chain(tmp_path).run(Stage("work", (str(script(tmp_path, "ok", "")),)))
    assert (tmp_path / "result.json").read_text() == "mine"


def test_a_full_disk_is_a_sentence_and_ends_the_stage(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "work.log").symlink_to("/dev/full")
    (tmp_path / "out" / "stages.json").write_text("{}")
    file = script(tmp_path, "work", "import time\nwhile True: print('x' * 9999)")
    with pytest.raises(UserError, match="cannot write .*work.log: No space left on device; make room"):
        chain = Chain(tmp_path / "out")
        chain.record["other"] = {"command": [], "seconds": 1.0}
        chain.run(Stage("work", (str(file),)))
    assert not chain.running


@pytest.mark.parametrize("text", [None, "{", "{}", '{"bbox": null}', "[]"])
def test_a_result_that_is_gone_or_damaged_is_told(tmp_path, text):
    if text:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(
        UserError, match="result.json is missing or damaged, .* take the stage's entry out of stages.json"
    ):
        read_result(tmp_path / "result.json", "bbox", "AP")


def test_a_failed_stage_says_why_and_is_run_again(tmp_path, capsys):
    file = script(tmp_path, "fail", "import sys; print('error: no such thing'); sys.exit(2)")
    good = Stage("good", (str(script(tmp_path, "good", "")),))
    with pytest.raises(UserError, match="the fail stage stopped: no such thing"):
        Chain(tmp_path / "out").run(Stage("fail", (str(file),)), good)
    assert Chain(tmp_path / "out").seconds.keys() == {"good"}  # its neighbour went on to its end
    file.write_text("print('fine now')")
    Chain(tmp_path / "out").run(Stage("fail", (str(file),)))
    assert "fine now" in capsys.readouterr().out


def test_stages_side_by_side_are_all_recorded(tmp_path):
    file = str(script(tmp_path, "nothing", ""))
    names = [f"stage{i}" for i in range(8)]
    Chain(tmp_path / "out").run(*(Stage(name, (file, name)) for name in names))
    assert sorted(Chain(tmp_path / "out").seconds) == names


def test_only_matching_lines_are_shown_but_all_are_kept(tmp_path, capsys):
    text = "print('iter: 1'); print('noise')"
    Chain(tmp_path).run(Stage("quiet", (str(script(tmp_path, "quiet", text)),), show="iter"))
    assert "noise" not in capsys.readouterr().out
    assert "noise" in (tmp_path / "quiet.log").read_text()


def test_a_signal_reaches_the_stages_and_ends_the_chain(tmp_path, capsys):
    """The stage asks its chain's process for the signal, and saves when it is told."""
    ask = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
    ask += "os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)"
    with pytest.raises(SystemExit) as stop:
        Chain(tmp_path / "out").run(Stage("slow", (str(script(tmp_path, "slow", ask)),)))
    assert stop.value.code == 75 and "run the same command again to continue" in capsys.readouterr().err
    assert not Chain(tmp_path / "out").seconds


def test_a_stage_that_was_stopped_stops_the_chain(tmp_path):
    with pytest.raises(SystemExit) as stop:
        Chain(tmp_path / "out").run(Stage("stopped", (str(script(tmp_path, "stopped", "raise SystemExit(75)")),)))
    assert stop.value.code == 75
