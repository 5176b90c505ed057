"""The pretraining loop, on Detectron2's trainer and hooks. It knows no method: a method is a module with
`forward(batch, step) -> {name: loss}`, `after_step(step)` and `clip_groups() -> {name: parameters}`."""

import logging
import time

import torch
from detectron2.engine import TrainerBase
from torch import Tensor, nn

from pretrain.data.batches import CropLoader
from pretrain.errors import UserError


class PretrainTrainer(TrainerBase):
    """One process, one device.

    Args:
        model: the method.
        loader: gives the batches of any step on.
        amp: run the model under bfloat16 autocast.
        clip_grad: largest gradient norm of each sub-module; 0 turns clipping off.
    """

    def __init__(
        self, model: nn.Module, loader: CropLoader, optimizer: torch.optim.Optimizer, amp: bool, clip_grad: float
    ):
        super().__init__()
        self.model, self.loader, self.optimizer = model.train(), loader, optimizer
        self.amp, self.clip_grad = amp, clip_grad
        self.device = next(model.parameters()).device
        self.broken: set[str] = set()

    def train(self, start_iter: int, max_iter: int) -> None:
        self.batches = self.loader.batches(start_iter)
        # Detectron2 logs every exception of a step with its traceback; a UserError needs none.
        logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_user_error)
        super().train(start_iter, max_iter)

    def run_step(self) -> None:
        start = time.perf_counter()
        batch = next(self.batches)
        data_time = time.perf_counter() - start
        self.note_broken(batch.pop("skipped"))
        batch = {k: v.to(self.device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}
        self.batch = batch  # for hooks
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            losses = self.model(batch, self.iter)
        total = sum(losses.values())
        self.check_finite(total, losses, batch["index"])
        self.optimizer.zero_grad()
        total.backward()
        norms = self.clip_gradients()
        self.optimizer.step()
        self.model.after_step(self.iter)
        self.record({"total_loss": total, **losses, **norms}, data_time, len(batch["index"]))

    def clip_gradients(self) -> dict[str, Tensor]:
        """Clip each sub-module's gradient on its own; returns the norms before clipping."""
        limit = self.clip_grad or float("inf")
        groups = self.model.clip_groups().items()
        return {f"grad_norm/{name}": nn.utils.clip_grad_norm_(params, limit) for name, params in groups}

    def record(self, scalars: dict[str, Tensor], data_time: float, num_images: int) -> None:
        values = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
        self.storage.put_scalars(**dict(zip(scalars, values, strict=True)))
        self.storage.put_scalars(data_time=data_time, images=num_images, broken_images=len(self.broken))

    def check_finite(self, total: Tensor, losses: dict[str, Tensor], index: Tensor) -> None:
        """Stop before a bad gradient reaches the weights."""
        if not torch.isfinite(total):
            parts = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
            names = ", ".join(self.loader.source.name(i) for i in index.tolist())
            raise UserError(
                f"step {self.iter}: the loss is not finite ({parts}); stopped before the weights changed. "
                f"The last saved checkpoint is good: try a lower learning rate. Images of the step: {names}"
            )

    def note_broken(self, skipped: list[tuple[str, str]]) -> None:
        """Report each broken image once."""
        for name, reason in skipped:
            if name not in self.broken:
                self.broken.add(name)
                logging.getLogger(__name__).warning("skipped a broken image: %s (%s)", name, reason)


def _is_no_user_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], UserError))
