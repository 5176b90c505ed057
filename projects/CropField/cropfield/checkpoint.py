"""Detectron2 checkpoints: written atomically, only if all weights are finite, and checked when loaded."""

import logging
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cropfield.categories import KEY
from pretrain.engine.checkpoint import BAD_STATE, check_finite, check_model_state, check_steps, resume_step
from pretrain.errors import UserError, in_a_line
from pretrain.files import read_torch_file, write_text, write_torch_file

logger = logging.getLogger(__name__)
LAST = "last_checkpoint"  # the file that names the checkpoint to resume from


class AtomicCheckpointer:
    """A checkpointer for Detectron2's hooks that replaces a file only once the new one is completely written.

    Args:
        model: may be wrapped in DistributedDataParallel; only the main process saves.
        resumable: whether `--resume` may continue from these files.
        categories: the model's classes, saved with the weights; see `cropfield.categories`.
        parts: other objects to save and resume, by name: the trainer, averaged weights.
    """

    def __init__(
        self, model: nn.Module, save_dir: str, resumable: bool = True, categories: list[dict] | None = None, **parts
    ):
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.save_dir, self.parts = save_dir, parts
        self.resumable, self.categories = resumable, categories
        self.path_manager = PathManager  # hooks use it to remove old files
        self.saved: str | None = None  # name of the last saved file

    def save(self, name: str, **more) -> None:
        """Write SAVE_DIR/name.pth: the model, the parts and `more`.

        Raises:
            UserError: a weight is not finite, or the file could not be written (for example, the disk is full); an
                existing file is left untouched.
        """
        if not comm.is_main_process():
            return
        state = {"model": self.model.state_dict()}
        state |= {key: part.state_dict() for key, part in self.parts.items()}
        check_finite(state, more.get("iteration", -1) + 1)
        if self.categories:
            more["metadata"] = {KEY: self.categories}
        path = Path(self.save_dir, f"{name}.pth")
        write_torch_file(path, state | more)
        logger.info("Saved %s", path)
        self.saved = name
        if self.resumable:
            write_text(Path(self.save_dir, LAST), path.name)

    def get_checkpoint_file(self) -> str:
        """As `last_file`; Detectron2's version also follows the name to other folders and URLs."""
        return str(last_file(self.save_dir) or "")

    def resume(self, state: dict | None = None) -> None:
        """Load the last checkpoint of SAVE_DIR, or `state` as returned by `read_last`, into the model and parts.

        Raises:
            UserError: the checkpoint is missing, damaged, of another detector, or contains no training state.
        """
        path = last_file(self.save_dir)
        state = state or read_last(self.save_dir, self.model, self.parts)
        if state is None:
            raise UserError(f"{self.save_dir} has no checkpoint to resume from; leave out --resume")
        logger.info("Resuming from %s", path)
        try:
            self.model.load_state_dict(state["model"])
            for key, part in self.parts.items():
                part.load_state_dict(state[key])
        except BAD_STATE as error:
            raise other_run(path, in_a_line(error)) from error


def last_file(folder: str | Path) -> Path | None:
    """The checkpoint to resume from, or None. Raises UserError if last_checkpoint names no file in the same folder."""
    last = Path(folder, LAST)
    if not last.is_file():
        return None
    name = last.read_bytes().decode(errors="replace").strip()
    if not name or name != Path(name).name or not (last.parent / name).is_file():
        raise UserError(f"{last} names {name[:80]!r}, which is not in that folder; write the name of a file that is")
    return last.parent / name


def read_last(folder: str | Path, model: nn.Module, parts=("trainer",)) -> dict | None:
    """Read the state to resume from; None if there is no checkpoint yet.

    Raises:
        UserError: it cannot be read, its tensors differ from `model`'s, or it lacks one of `parts`.
    """
    path = last_file(folder)
    if path is None:
        return None
    state = read_torch_file(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path}: holds no detector; go on from another file, which last_checkpoint beside it names")
    check_same_tensors(path, state["model"], model.state_dict())
    if absent := [part for part in parts if not isinstance(state.get(part), dict)]:
        reason = "it has no averaged weights (train.ema)" if absent == ["ema"] else f"it has no {absent[0]}"
        raise other_run(path, reason)
    try:
        check_model_state(state["model"], model.state_dict())
        resume_step(path, check_steps(state["trainer"]["iteration"]), state["trainer"].get("batch_size"), None, None)
    except (ValueError, KeyError) as error:
        raise other_run(path, str(error)) from None
    return state


def check_same_tensors(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise UserError unless the names and shapes are equal."""
    ours = {name: tuple(value.shape) for name, value in wanted.items()}
    theirs = {name: tuple(getattr(value, "shape", ())) for name, value in found.items()}
    differing = [name for name in sorted(ours.keys() | theirs.keys(), key=str) if ours.get(name) != theirs.get(name)]
    if not differing:
        return
    name = differing[0]
    theirs, ours = (f"{s[name]}" if name in s else "absent" for s in (theirs, ours))
    raise other_run(path, f"{len(differing)} tensors differ; {name} is {theirs} in the file and {ours} in this config")


def other_run(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} was written by another model or config and cannot be resumed: {reason}. Resume with the config of "
        "that run, or choose another train.output_dir"
    )
