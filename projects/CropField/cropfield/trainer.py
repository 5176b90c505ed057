"""Detectron2's simple trainer with gradient accumulation and mixed precision on any device."""

import time
from contextlib import nullcontext

import torch
from detectron2.engine import SimpleTrainer, TrainerBase
from torch.nn.parallel import DistributedDataParallel

from cropfield.random_numbers import seed_step
from pretrain.engine.checkpoint import load_optimizer, resume_step
from pretrain.engine.loop import TrainingLoop


class DetectionTrainer(TrainingLoop, SimpleTrainer):
    """`SimpleTrainer` whose step may be several passes: gradients and losses are the passes' means.

    For most detection losses this equals a step on the whole batch. Losses normalised by a count from the batch
    (positive anchors in RetinaNet, regions in the ROI heads) become means of means.

    Args:
        accumulate: passes in each step; each reads one batch of `data_loader`.
        precision: autocast dtype of the forward pass, or None for float32. float16 uses gradient scaling.
        seed: if the loader has `batches`, all random numbers are a function of the seed and the step; None: they are
            not.
        batch_size: images in a step, over all processes and passes; a state saved with another batch size resumes after
            the same number of images.
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        accumulate: int = 1,
        precision: torch.dtype | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.accumulate, self.precision, self.seed = accumulate, precision, seed
        self.batch_size = batch_size
        self.device = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(self.device, enabled=precision == torch.float16)
        self.batch_files: list[str] = []  # images of the current step, for messages

    @property
    def loader(self):
        """The loader, under the name that pretraining's hooks use."""
        return self.data_loader

    def run_step(self) -> None:
        if self.seed is not None:
            seed_step(self.seed, self.iter)
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
        self.write_metrics(means, waited, self.iter)  # raises before the step if a loss is not finite
        self.check_gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def check_gradients(self) -> None:
        """Raise FloatingPointError before the step if a gradient is not finite; float16's scaler skips such steps
        itself.
        """
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.scaler.is_enabled() or not gradients:
            return
        if not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            raise FloatingPointError(f"The gradient became infinite or NaN at iteration={self.iter}!")

    def one_pass(self, batch: list[dict], last: bool) -> dict[str, torch.Tensor]:
        """Forward and backward pass; gradients are synchronised only in the last pass of a step."""
        wait = isinstance(self.model, DistributedDataParallel) and not last
        with self.model.no_sync() if wait else nullcontext():
            with torch.autocast(self.device, self.precision, enabled=self.precision is not None):
                losses = self.model(batch)
            self.scaler.scale(sum(losses.values()) / self.accumulate).backward()
        return losses

    def before_train(self) -> None:
        if self.seed is not None and hasattr(self.data_loader, "batches"):
            self._data_loader_iter_obj = self.data_loader.batches(self.start_iter * self.accumulate, self.seed)
        super().before_train()

    def after_train(self) -> None:
        """Ends the loader's workers first."""
        close = getattr(self._data_loader_iter_obj, "close", lambda: None)
        close()
        self._data_loader_iter_obj = None
        super().after_train()

    def state_dict(self) -> dict:
        own = {"grad_scaler": self.scaler.state_dict(), "seed": self.seed, "batch_size": self.batch_size}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the state, but keep seed, batch size and optimizer options. Raises ValueError for another
        optimizer.
        """
        TrainerBase.load_state_dict(self, state_dict)
        saved = state_dict.get("batch_size")
        self.iter = resume_step("the state", self.iter + 1, saved, self.batch_size, None) - 1
        groups = self.optimizer.param_groups
        options = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        load_optimizer(self.optimizer, state_dict["optimizer"])
        for group, ours in zip(self.optimizer.param_groups, options, strict=True):
            group |= ours | {"initial_lr": ours["lr"]}  # the base value of schedules
        self.scaler.load_state_dict(state_dict.get("grad_scaler", {}) if self.scaler.is_enabled() else {})
