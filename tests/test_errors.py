"""A sentence for the user is one line, whatever a file is called."""

import os

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
