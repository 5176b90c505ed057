"""Detectron2's checkpoints, written whole or not at all."""

from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer

from cropfield.categories import KEY
from pretrain.files import replacing


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
