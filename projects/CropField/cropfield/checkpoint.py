"""Detectron2's checkpoints, written whole or not at all, never from weights that are broken, and read with care."""

from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from cropfield.categories import KEY
from pretrain.engine.checkpoint import check_finite, start_of, steps_done
from pretrain.errors import UserError
from pretrain.files import read_torch_file, replacing, write_text

LAST = "last_checkpoint"  # the file that names the checkpoint to resume from


class AtomicCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that replaces a file only when the new one lies on the disk, and loads all or nothing.

    Args:
        resumable: whether `--resume` may go on from these files.
        categories: the classes that the model knows, see `cropfield.categories`; they travel with the weights.
    """

    def __init__(
        self, model, save_dir: str, resumable: bool = True, categories: list[dict] | None = None, **checkpointables
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.resumable, self.categories = resumable, categories
        self.saved: str | None = None  # the last name

    def save(self, name: str, **more) -> None:
        """Write SAVE_DIR/name.pth: the model, the checkpointables and `more`.

        Raises:
            UserError: a weight is not finite, or the file could not be written (a full disk, say); what was there
                before is untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = {"model": self.model.state_dict()}
        state |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        check_finite(state, more.get("iteration", -1) + 1)
        if self.categories:
            more["metadata"] = {KEY: self.categories}
        path = Path(self.save_dir, f"{name}.pth")
        with replacing(path) as draft:
            torch.save(state | more, draft)
        self.logger.info("Saved %s", path)
        self.saved = name
        if self.resumable:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_text(Path(self.save_dir, LAST), last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """As `last_file`; Detectron2's follows the name to other folders and addresses."""
        return str(last_file(self.save_dir) or "")

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """As Detectron2's, but only from this machine, and what cannot be loaded is a `UserError`."""
        if path and not Path(path).is_file():
            raise UserError(f"there is no checkpoint {path}; check the path")
        try:
            return super().load(path, checkpointables)
        except UserError:
            raise
        except Exception as error:  # what a damaged state makes the model, the optimizer or a hook stumble on
            reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
            raise UserError(f"{path}: cannot be gone on with: {reason}; resume from another checkpoint") from error
        finally:
            self._parsed_url_during_load = None  # Detectron2 leaves it behind when a load fails

    def _load_file(self, filename: str) -> dict:
        """Tensors and plain values only, whatever the file is called: Detectron2 unpickles a .pkl."""
        content = read_torch_file(filename)
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise UserError(f"{filename}: holds no state of a detector's training")
        return content

    def resume(self) -> None:
        """Load the last checkpoint of SAVE_DIR into the model and all checkpointables.

        Raises:
            UserError: it is damaged, of another detector, or holds no state of a training; see `read_last`.
        """
        path = last_file(self.save_dir)
        state = read_last(self.save_dir, self.model, self.checkpointables)
        self.logger.info("Going on from %s", path)
        try:
            self.model.load_state_dict(state["model"])
            for key, part in self.checkpointables.items():
                part.load_state_dict(state[key])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise other_run(path, " ".join(str(error).split())[:300]) from error


def last_file(folder: str | Path) -> Path | None:
    """The checkpoint to resume from, or None. Raises UserError where last_checkpoint does not name a file beside it."""
    last = Path(folder, LAST)
    if not last.is_file():
        return None
    name = last.read_bytes().decode(errors="replace").strip()
    if not name or name != Path(name).name or not (last.parent / name).is_file():
        raise UserError(
            f"{last} names {name[:80]!r}, and no such file lies beside it; write the name of one that does into it"
        )
    return last.parent / name


def read_last(folder: str | Path, model: nn.Module, parts=("trainer",)) -> dict | None:
    """The state to resume from, or None where there is none yet.

    Raises:
        UserError: it cannot be read, has other tensors than `model`, or lacks one of `parts`.
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
        start_of(path, steps_done(state["trainer"]["iteration"]), state["trainer"].get("batch_size"), None, None)
    except (ValueError, KeyError) as error:
        raise other_run(path, str(error)) from None
    return state


def check_same_tensors(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise UserError unless the names and shapes are the same."""
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
