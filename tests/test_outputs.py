"""Output folders: one writer, never over a finished run or an input, no name twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.errors import UserError
from pretrain.outputs import LOCK, UniqueNames, is_output, open_output, output_path, refuse_existing, refuse_inputs

WRITER = """
import os, sys, time
from pretrain.outputs import open_output
open_output(sys.argv[1])
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that has opened an output folder, and the number of its child."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    os.kill(child, signal.SIGKILL)


def test_a_second_writer_is_refused_until_the_first_is_gone(writer, tmp_path):
    with pytest.raises(UserError, match="another process is writing"):
        open_output(tmp_path / "out")
    writer.kill()  # its child lives on, and does not hold the lock
    writer.wait()
    for _ in range(100):  # of a killed process the locks go a moment after it
        try:
            assert open_output(tmp_path / "out") == tmp_path / "out"
            break
        except UserError:
            time.sleep(0.02)
    else:
        pytest.fail("the lock of a killed process is still there")
    assert open_output(tmp_path / "out")  # this process itself may come back


@pytest.mark.parametrize("written, left", [("", []), ("new/out/a.txt", ["new", "new/out", f"new/out/{LOCK}"])])
def test_a_process_that_writes_nothing_leaves_nothing(tmp_path, written, left):
    (tmp_path / "old").mkdir()
    folders = f"{tmp_path}/new/out", f"{tmp_path}/old"
    write = f"open({str(tmp_path / written)!r}, 'w')" if written else ""
    code = f"[open_output(folder) for folder in {folders}]; {write}"
    subprocess.run([sys.executable, "-c", f"from pretrain.outputs import open_output; {code}"], check=True)
    found = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))]
    assert found == sorted([*left, "old", *([written] if written else [])])


def test_drafts_of_killed_writers_are_removed(tmp_path):
    (tmp_path / ".model.pth.123.partial").touch()
    (tmp_path / ".7.partial.mp4").touch()
    assert not is_output(tmp_path)
    open_output(tmp_path)
    assert is_output(tmp_path) and [p.name for p in tmp_path.iterdir()] == [LOCK]


def test_a_finished_run_is_refused_and_untouched(tmp_path):
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(UserError, match="model_final.pth exists"):
        open_output(tmp_path, ["result.json", "model_*.pth"])
    assert not is_output(tmp_path)
    open_output(tmp_path, ["result.json"])


def test_files_of_others_are_not_written_over(tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match="config.yaml exists, and would be written over"):
        open_output(tmp_path, written=["log.txt", "*.yaml"])
    assert not is_output(tmp_path)
    open_output(tmp_path, written=["log.txt"])  # marks it as an earlier run's
    open_output(tmp_path, written=["*.yaml"])


def test_a_folder_of_others_that_nothing_was_written_into_is_no_output(tmp_path):
    (tmp_path / "image.jpg").touch()
    code = f"from pretrain.outputs import open_output; open_output({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not is_output(tmp_path)


@pytest.mark.parametrize("folder", [None, True, "", ["a"], 1.5])
def test_what_is_no_path_is_told(folder):
    with pytest.raises(UserError, match="path of a folder"):
        open_output(folder)


def test_a_number_is_a_name_too():
    assert output_path(2024) == Path("2024")


def test_a_configs_folder_is_text():
    folder = os.fsdecode(b"a/o\xff")
    with pytest.raises(UserError, match=r"train.output_dir is a/o\\xff, a name that is not UTF-8"):
        output_path(folder, "train.output_dir")
    assert output_path(folder) == Path(folder) and output_path("é", "train.output_dir") == Path("é")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot write into"):
            open_output(folder)


def test_an_input_is_no_output_by_any_path(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    os.link(tmp_path / "a", tmp_path / "hard")
    (tmp_path / "b").touch()
    refuse_inputs([tmp_path / "b", tmp_path / "new"], iter([tmp_path / "a", tmp_path / "gone"]))
    for path in ("a", "link", "hard", "./a"):
        with pytest.raises(UserError, match="is an input"):
            refuse_inputs([tmp_path / "b", tmp_path / path], iter([tmp_path / "a"]))


def test_names_are_given_once():
    names = UniqueNames()
    wanted = ["1.png", "1.png", "1.PNG", "d/1.png", "D/1.png", "1.png/x.png", "e/f", "e", "1-2.png", ".x", ".x"]
    given = [names.take(name) for name in wanted]
    assert given[:5] == [Path(p) for p in ("1.png", "1-2.png", "1-3.PNG", "d/1.png", "D/1-2.png")]
    assert given[5] == Path("1-4.png/x.png")  # "1.png" is a file already
    assert len({str(path).casefold() for path in given}) == len(wanted)
    folders = {str(parent).casefold() for path in given for parent in path.parents}
    assert not folders & {str(path).casefold() for path in given}


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".."])
def test_no_name_leaves_the_folder(path):
    with pytest.raises(ValueError):
        UniqueNames().take(path)


def test_what_exists_is_not_written_over(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "new", None, tmp_path / "empty")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"{name} exists"):
            refuse_existing(tmp_path / "new", tmp_path / name)
    with pytest.raises(UserError, match="holds empty already"):
        refuse_existing(tmp_path)
    with pytest.raises(UserError, match="given twice"):
        refuse_existing(tmp_path / "new", tmp_path / "empty" / ".." / "new")
