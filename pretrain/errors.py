"""Errors that the user can fix: one sentence each, no traceback."""

import errno
import logging
import os
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

from pretrain.openmp import choose_waiting
from pretrain.parent import end_with_parent

MAX_REASON = 300  # characters of what an exception says


class UserError(Exception):
    r"""Bad input. The message says what is wrong, where, and what to do about it.

    It is printed as one line: line breaks and other unprintable characters of a file's name become \n and the like, and
    of words of more than 300 characters, as only damaged lists hold, the middle is left out.
    """

    def __str__(self) -> str:
        return printable(re.sub(r"\S{301,}", lambda word: f"{word[0][:150]}...{word[0][-100:]}", super().__str__()))


def printable(text: str) -> str:
    r"""`text`, say a file's name, in one line: line breaks and other unprintable characters as \n and the like."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    r"""A byte of a name that is not UTF-8 as \xff, the others as Python writes them."""
    number = ord(character) - 0xDC00
    return f"\\x{number:02x}" if 0x80 <= number <= 0xFF else ascii(character)[1:-1]


def in_a_line(error: BaseException) -> str:
    """All that an exception says, which may be a page, in one line that is not too long."""
    return (" ".join(str(error).split()) or type(error).__name__)[:MAX_REASON]


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its type; of a YAML file's fault the line that it is in."""
    problem = getattr(error, "problem", None)  # YAML's errors begin with what was being read, and have a place
    if problem and "tag:yaml.org,2002:python/" in problem:
        return f"it asks for a Python object ({problem.rpartition('python/')[2].strip(chr(39))}), which could run code"
    if problem and getattr(error, "problem_mark", None):
        return f"line {error.problem_mark.line + 1}: {problem}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[-1] if any(line.startswith("Original Traceback") for line in lines) else lines[0]
    if isinstance(error, KeyError | RecursionError | MemoryError | NotImplementedError):
        line = f"{type(error).__name__}: {line}" if line != type(error).__name__ else line
    return line[:MAX_REASON]


def run_main(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and exit with its code.

    A `UserError` becomes `error: ...` on stderr and exit code 2, Ctrl-C `interrupted` and 130, as shells report it.
    With CROPFIELD_TRACEBACK=1 in the environment it shows where the error came from as well.
    A command that a chain started ends with it (`pretrain.parent`). Import torch in `main`, not before: how its threads
    wait is chosen here (`pretrain.openmp`).
    """
    end_with_parent()
    choose_waiting()
    hush_detectron2()
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        if os.environ.get("CROPFIELD_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(f"error: {UserError(error.filename)}: too long for a file's name; check the path", file=sys.stderr)
            sys.exit(2)
        if isinstance(error, BrokenPipeError) and _nobody_reads(sys.stdout):  # `| head`, say
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit
            sys.exit(128 + signal.SIGPIPE)
        if not _interrupted(error):
            raise
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def _nobody_reads(output) -> bool:
    """Whether `output` is a pipe whose reader has ended."""
    poll = select.poll()
    poll.register(output, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def hush_detectron2() -> None:
    """Hide warnings about Detectron2's own code, about which a tool's user can do nothing."""
    for beginning in ("pkg_resources is deprecated", "torch.meshgrid: in an", "The given NumPy array is not writable"):
        warnings.filterwarnings("ignore", beginning)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # is_fx_tracing in Detectron2's poolers


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at its root: omegaconf's clean-up makes an error of its own of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = None if isinstance(error, SystemExit) else error.__cause__ or error.__context__
    return error is not None
