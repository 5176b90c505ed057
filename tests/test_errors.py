"""A sentence for the user is one line, whatever a file is called."""

import os
import signal
import subprocess
import sys

import pytest

from pretrain.errors import UserError, run_main


@pytest.mark.parametrize(
    "name, shown",
    [
        ("new\nline.png", "new\\nline.png"),
        ("\x1b[31mred", "\\x1b[31mred"),
        (os.fsdecode(b"z\xff.png"), "z\\xff.png"),
        ("\ud800", "\\ud800"),
        ("\u202egnp", "\\u202egnp"),
        ("Käse, 猫.png", "Käse, 猫.png"),
        ("a" * 900, "a" * 150 + "..." + "a" * 99),
    ],
)
def test_names_are_printed_in_one_line(name, shown, capsys):
    def main():
        raise UserError(f"there is no {name}; check the path")

    with pytest.raises(SystemExit):
        run_main(main)
    assert capsys.readouterr().err == f"error: there is no {shown}; check the path\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [b"1\n", b"100000\n"])
def test_a_reader_that_has_enough_ends_a_command_without_a_word(unbuffered, lines):
    """As in `tool | head -1`."""
    code = "from pretrain.errors import run_main\ndef main():\n  for n in range(int(input())): print(n)\nrun_main(main)"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as command:
        command.stdout.close()
        command.stdin.write(lines)
        command.stdin.close()
        assert not command.stderr.read()
    assert command.returncode == 128 + signal.SIGPIPE


def test_a_name_too_long_for_a_file_is_a_sentence(capsys):
    with pytest.raises(SystemExit) as left:
        run_main(lambda: os.stat("a" * 400))
    said = f"error: {'a' * 150}...{'a' * 100}: too long for a file's name; check the path\n"
    assert left.value.code == 2 and capsys.readouterr().err == said


def test_another_broken_pipe_is_not_hidden(monkeypatch):
    def main():
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError):
        run_main(main)
