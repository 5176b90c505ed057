"""Writing files whole or not at all, and reading checkpoints without running code from them."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from pretrain.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a draft's path beside `path`; when the block ends well the draft becomes `path` at once, synced to disk.

    Raises:
        UserError: it could not be written (a full disk, say). What was at `path` before is untouched.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:  # torch's writer wraps a full disk in a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"cannot write {path}: {reason}; what was there before is untouched") from error
    finally:
        with suppress(OSError):  # gone already, or never made: what matters was said above
            draft.unlink()


def read_torch_file(path: str | Path):
    """What `torch.save` wrote, on the CPU; only tensors and plain values are accepted.

    Raises:
        UserError: the file is absent, damaged, no torch file, or would run code on loading.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it could run code" if "weights_only" in str(error).lower() else "it is damaged"
        raise UserError(
            f"{path} is not a file of tensors only ({reason}): refused; get it again from who made it"
        ) from None
    except Exception as error:  # damaged bytes raise whatever the reader stumbles on
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is truncated or no checkpoint ({reason}); copy it again") from None
