"""Output folders: one writer each, never over a finished run or an input, never two files of one name.

Drafts and renaming, which keep a file whole, are `pretrain.files`' part.
"""

import atexit
import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from pretrain.errors import UserError
from pretrain.files import is_draft, remove_drafts

LOCK = ".cropfield.lock"  # also marks a folder as a tool's output

_held = []  # locks, until the process ends


def open_output(folder: str | os.PathLike, finished: Iterable[str] = (), written: Iterable[str] = ()) -> Path:
    """Make `folder` and keep other processes from writing into it until this one ends, however it ends.

    The lock is POSIX's: the system takes it off a process that is killed, and children do not inherit it. Call it in
    one process of a run. What killed processes had begun to write there is removed. Where nothing has been written when
    the process ends, because it refused its input, say, nothing stays: neither the lock nor the folders made here.

    Args:
        finished: see `refuse_finished`.
        written: glob patterns of what will be written over; in a folder that no tool has opened before, a file that one
            of them matches is the user's own.

    Raises:
        UserError: it cannot be made or written, another process writes there, or it holds a finished run or such files.
    """
    folder = output_path(folder)
    refuse_finished(folder, finished)
    opened = is_output(folder)
    if not opened:
        refuse_foreign(folder, written)
    try:
        made = [part for part in (folder.absolute(), *folder.absolute().parents) if not part.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another output folder") from None
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.close()
        raise UserError(
            f"another process is writing into {folder}; wait until it ends, or choose another output folder"
        ) from None
    except OSError:
        pass  # a file system without locks
    _held.append(lock)  # closing one would take all this process's locks off that file
    remove_drafts(folder)
    others = set() if opened else set(os.listdir(folder)) - {LOCK}
    atexit.register(_leave_nothing, os.getpid(), folder.absolute(), made, others)
    return folder


def _leave_nothing(process: int, folder: Path, made: list[Path], others: set[str]) -> None:
    """Remove an output folder's lock, and the folders `made` for it, where only the `others` of before are in it."""
    with contextlib.suppress(OSError):
        if os.getpid() == process and set(os.listdir(folder)) - {LOCK} == others:
            (folder / LOCK).unlink(missing_ok=True)
            for part in made:
                part.rmdir()


def output_path(folder, name: str = "") -> Path:
    """A folder as a config gives it under the key `name`, or a command line; a number is one too.

    Raises UserError otherwise, and of a config's where it is not UTF-8: the config is written as text.
    """
    if isinstance(folder, bool) or not isinstance(folder, str | int | os.PathLike) or folder == "":
        raise UserError(f"{name or 'the output folder'} is {folder!r}; give the path of a folder")
    path = Path(str(folder) if isinstance(folder, int) else folder)
    if name and any("\ud800" <= character <= "\udfff" for character in str(path)):
        raise UserError(f"{name} is {path}, a name that is not UTF-8 and cannot be written into files; choose another")
    return path


def refuse_finished(folder: Path, finished: Iterable[str], advice: str = "choose another output folder") -> None:
    """Raise UserError where one of the glob patterns `finished` matches a file in `folder`."""
    if found := _first_match(folder, finished):
        raise UserError(f"{found} exists: {folder} holds an earlier run, which stays as it is; {advice}")


def refuse_foreign(folder: Path, written: Iterable[str]) -> None:
    """Raise UserError where one of the glob patterns `written` matches a file in `folder`, which no tool has opened."""
    if found := _first_match(folder, written):
        raise UserError(
            f"{found} exists, and would be written over; choose an output folder that is new or holds an earlier run"
        )


def _first_match(folder: Path, patterns: Iterable[str]) -> Path | None:
    return next((path for pattern in patterns for path in sorted(Path(folder).glob(pattern))), None)


def refuse_occupied(folder: Path) -> None:
    """Raise UserError unless `folder` is new or empty; a lock and drafts of a killed process do not count."""
    try:
        found = [path for path in sorted(Path(folder).iterdir()) if path.name != LOCK and not is_draft(path)]
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another output folder") from None
    if found:
        raise UserError(f"{folder} holds {found[0].name} already; choose an output folder that is new or empty")


def is_output(folder: str | os.PathLike) -> bool:
    """Whether `folder` is the output of a tool, by its lock file."""
    return os.path.lexists(os.path.join(folder, LOCK))


def refuse_inputs(outputs: Iterable[str | os.PathLike], inputs: Iterable[str | os.PathLike]) -> None:
    """Raise UserError where an output is the same file or folder as an input, by whatever path."""
    sources = [path for path in inputs if os.path.exists(path)]
    for output in filter(os.path.exists, outputs):
        for source in sources:
            if os.path.samefile(output, source):
                raise UserError(f"{output} is an input, and would be written over; choose another output")


def refuse_existing(*outputs: Path | None) -> None:
    """Raise UserError where a file to be written exists, or a folder with anything in it, or one is given twice."""
    given = set()
    for output in filter(None, outputs):
        if os.path.realpath(output) in given:
            raise UserError(f"{output} is given twice as an output; give each file once")
        given.add(os.path.realpath(output))
        if output.is_dir():
            refuse_occupied(output)
        elif os.path.lexists(output):
            raise UserError(f"{output} exists, and would be written over; remove it, or choose another name")


class UniqueNames:
    """Relative paths, each given once: a second a/1.png becomes a/1-2.png. Upper and lower case count as the same."""

    def __init__(self):
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def take(self, path: str | os.PathLike) -> Path:
        """`path` below an output folder, or with the first number that makes it new.

        A folder that has a file's name gets a number as well. Raises ValueError for a path that leaves its folder.
        """
        path = PurePath(path)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise ValueError(f"{path} leaves the output folder")
        parent = Path()
        for part in path.parts[:-1]:
            parent = self._free(parent / part, self._files)
            self._folders.add(str(parent).casefold())
        free = self._free(parent / path.name, self._files | self._folders)
        self._files.add(str(free).casefold())
        return free

    @staticmethod
    def _free(path: Path, taken: set[str]) -> Path:
        free, number = path, 1
        while str(free).casefold() in taken:
            number += 1
            free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        return free
