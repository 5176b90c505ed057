"""Detectron2's checkpoints, written whole or not at all, and read without running code from them."""

import re
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer

from cropfield.categories import KEY
from pretrain.errors import UserError
from pretrain.files import read_torch_file, replacing


class AtomicCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that replaces a file only when the new one lies on the disk.

    Args:
        resumable: whether `--resume` may go on from these files.
        categories: the classes that the model knows, see `cropfield.categories`; they travel with the weights.
    """

    def __init__(
        self, model, save_dir: str, resumable: bool = True, categories: list[dict] | None = None, **checkpointables
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.resumable, self.categories = resumable, categories

    def save(self, name: str, **more) -> None:
        """Write SAVE_DIR/name.pth: the model, the checkpointables and `more`.

        Raises:
            UserError: it could not be written (a full disk, say); what was there before is untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        state = {key: part.state_dict() for key, part in self.checkpointables.items()}
        if self.categories:
            more["metadata"] = {KEY: self.categories}
        path = Path(self.save_dir, f"{name}.pth")
        with replacing(path) as draft:
            torch.save({"model": self.model.state_dict()} | state | more, draft)
        self.logger.info("Saved %s", path)
        if self.resumable:
            self.tag_last_checkpoint(path.name)

    def get_checkpoint_file(self) -> str:
        """The file that SAVE_DIR/last_checkpoint names, which must lie beside it; "" where there is none.

        Raises:
            UserError: it names another place, or an address, which Detectron2 would fetch.
        """
        pointer = Path(self.save_dir, "last_checkpoint")
        try:
            name = pointer.read_text(encoding="utf-8")[:1000].strip()
        except OSError:
            return ""
        except UnicodeDecodeError:
            name = ""
        if not re.fullmatch(r"[\w. -]+\.pth", name):
            raise UserError(
                f"{pointer}: {name!r} is no checkpoint's name; write in it which .pth of its folder is the last"
            )
        return str(pointer.with_name(name))

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

    def _load_file(self, filename: str) -> dict:
        """Tensors and plain values only, whatever the file is called: Detectron2 unpickles a .pkl."""
        content = read_torch_file(filename)
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise UserError(f"{filename}: holds no state of a detector's training")
        return content
