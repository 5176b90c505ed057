"""Errors that are the user's to mend: one sentence each, no traceback."""

import sys
import warnings
from collections.abc import Callable

from pretrain.parent import end_with_parent


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do about it."""


def run_main(main: Callable[[], int | None]) -> None:
    """Run a tool's `main` and exit with its code.

    A `UserError` becomes `error: ...` on stderr and exit code 2, Ctrl-C `interrupted` and 130, as shells report it.
    A command that a chain started ends with it (`pretrain.parent`).
    """
    end_with_parent()
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")  # Detectron2's, on import
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BaseException as error:
        if not _interrupted(error):
            raise
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at its root: omegaconf's clean-up makes an error of its own of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = None if isinstance(error, SystemExit) else error.__cause__ or error.__context__
    return error is not None
