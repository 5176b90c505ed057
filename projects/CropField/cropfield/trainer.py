"""Detectron2's simple trainer with gradient accumulation, mixed precision on any device, and an orderly early end."""

import logging
import time
from contextlib import nullcontext

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from pretrain.engine.first_step import tells_of_first_step

logger = logging.getLogger(__name__)


@tells_of_first_step
class DetectionTrainer(SimpleTrainer):
    """`SimpleTrainer` whose step may be several passes: gradients and losses are the passes' means.

    For most losses of a detector that is the whole batch's step. Those divided by a number that the batch itself gives
    (positive anchors in RetinaNet, regions in the ROI heads) become means of means.

    Args:
        accumulate: passes a step; each takes one batch of `data_loader`.
        precision: autocast type of the forward pass, or None for float32. float16 scales its gradients.
    """

    def __init__(self, model, data_loader, optimizer, accumulate: int = 1, precision: torch.dtype | None = None):
        super().__init__(model, data_loader, optimizer)
        self.accumulate, self.precision = accumulate, precision
        self.device = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(self.device, enabled=precision == torch.float16)
        self.batch_files: list[str] = []  # of the step under way, for messages

    @property
    def loader(self):
        """As pretraining's hooks call it."""
        return self.data_loader

    def run_step(self) -> None:
        self.optimizer.zero_grad()
        self.batch_files, means, waited = [], {}, 0.0
        for left in reversed(range(self.accumulate)):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            waited += time.perf_counter() - start
            self.batch_files += [image.get("file_name", "?") for image in batch]
            for name, loss in self.one_pass(batch, last=left == 0).items():
                means[name] = means.get(name, 0.0) + loss.detach() / self.accumulate
        self.after_backward()
        self._write_metrics(means, waited)  # raises, before the step, where a loss is not finite
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def one_pass(self, batch: list[dict], last: bool) -> dict[str, torch.Tensor]:
        """Forward and backward; processes exchange gradients only in the last pass of a step."""
        wait = isinstance(self.model, DistributedDataParallel) and not last
        with self.model.no_sync() if wait else nullcontext():
            with torch.autocast(self.device, self.precision, enabled=self.precision is not None):
                losses = self.model(batch)
            self.scaler.scale(sum(losses.values()) / self.accumulate).backward()
        return losses

    def train(self, start_iter: int, max_iter: int) -> None:
        """As `TrainerBase.train`, except that a hook may call `stop`."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            finally:
                self.after_train()

    def stop(self) -> None:
        """Make the step under way the last one: what is done after the last step is done."""
        self.max_iter = self.iter + 1

    def state_dict(self) -> dict:
        return super().state_dict() | {"grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.scaler.load_state_dict(state_dict.get("grad_scaler", {}) if self.scaler.is_enabled() else {})
