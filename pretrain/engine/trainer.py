"""A pretraining step, on Detectron2's loop and hooks. It knows no method: see `pretrain.methods.protocol`."""

import itertools
import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from pretrain.data.batches import CropLoader
from pretrain.engine.distributed import data_parallel
from pretrain.engine.loop import TrainingLoop
from pretrain.errors import UserError
from pretrain.methods.across_ranks import sum_over_ranks
from pretrain.methods.protocol import Method


class PretrainTrainer(TrainingLoop):
    """One process with one device, alone or one of several that do the same on their slices of the batch.

    Losses and gradients are means over the processes and the accumulated parts of a step. `batch` is the last part that
    this process saw, and `folder` the run's output, for hooks.

    Args:
        model: a `pretrain.methods.protocol.Method`.
        loader: gives the batches of any step on.
        amp: run the model under bfloat16 autocast.
        clip_grad: largest gradient norm of each sub-module; 0 turns clipping off.
        accumulate: parts in which this process works off its slice of the batch, for less memory.
    """

    folder: Path | None = None

    def __init__(
        self,
        model: Method,
        loader: CropLoader,
        optimizer: torch.optim.Optimizer,
        amp: bool,
        clip_grad: float,
        accumulate: int = 1,
    ):
        super().__init__()
        self.model, self.loader, self.optimizer = model.train(), loader, optimizer
        self.parallel = data_parallel(model)
        self.amp, self.clip_grad, self.accumulate = amp, clip_grad, accumulate
        self.clip_groups = model.clip_groups()  # once: to collect them takes milliseconds
        self.device = next(model.parameters()).device

    def before_train(self) -> None:
        self.batches = self.loader.batches(self.start_iter, comm.get_rank(), comm.get_world_size(), self.accumulate)
        super().before_train()

    def run_step(self) -> None:
        self.data_time = 0.0
        self.optimizer.zero_grad()
        parts = [self.run_part(last=part == self.accumulate - 1) for part in range(self.accumulate)]
        norms = self.clip_gradients()
        scalars = self.logged_scalars([losses for losses, _ in parts], norms)
        self.stop_if_not_finite(scalars, parts)
        self.optimizer.step()
        self.model.after_step(self.iter)
        self.storage.put_scalars(
            **scalars, data_time=self.data_time, images=self.loader.batch_size, broken_images=len(self.loader.broken)
        )

    def run_part(self, last: bool) -> tuple[dict[str, Tensor], Tensor]:
        """Add one part's gradient; the last part sends the sum to the other processes. -> losses, indices of images"""
        self.batch = self.next_batch()
        waits = not last and self.parallel is not self.model
        with self.parallel.no_sync() if waits else nullcontext():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
                losses = self.parallel(self.batch, self.iter)
            (sum(losses.values()) / self.accumulate).backward()
        return {name: loss.detach() for name, loss in losses.items()}, self.batch["index"]

    def next_batch(self) -> dict:
        """The next part, on the device; notes the time waited."""
        start = time.perf_counter()
        batch = next(self.batches)
        self.data_time += time.perf_counter() - start
        batch.pop("skipped")  # in the loader's account
        return {name: on_device(value, self.device) for name, value in batch.items()}

    def clip_gradients(self) -> dict[str, Tensor]:
        """Clip each sub-module's gradient on its own; returns the norms before clipping."""
        limit = self.clip_grad or float("inf")
        groups = self.clip_groups.items()
        return {f"grad_norm/{name}": nn.utils.clip_grad_norm_(params, limit) for name, params in groups}

    def logged_scalars(self, losses: list[dict[str, Tensor]], norms: dict[str, Tensor]) -> dict[str, float]:
        """What a step logs, the same on every rank, with one exchange and one wait for the device."""
        names = [*losses[0]]
        means = torch.stack([torch.stack([part[name].float() for name in names]) for part in losses]).mean(0)
        means = sum_over_ranks(means) / comm.get_world_size()
        values = torch.cat([means, torch.stack([norm.float() for norm in norms.values()])]).tolist()
        scalars = dict(zip([*names, *norms], values, strict=True))
        return {"total_loss": sum(scalars[name] for name in names), **scalars}

    def stop_if_not_finite(self, scalars: dict[str, float], parts: list[tuple[dict[str, Tensor], Tensor]]) -> None:
        """Stop all ranks before a bad gradient reaches the weights, and name the images that may be at fault."""
        if all(math.isfinite(value) for value in scalars.values()):
            return
        bad = [index for losses, index in parts if not all(torch.isfinite(loss) for loss in losses.values())]
        suspects = self.names_on_all_ranks(bad)
        what = "loss" if suspects else "gradient"
        suspects = suspects or self.names_on_all_ranks([index for _, index in parts])
        raise UserError(
            f"step {self.iter}: the {what} is not finite ({', '.join(f'{k} {v:.4g}' for k, v in scalars.items())}); "
            "stopped before the weights changed. What was saved before is good: try a lower learning rate. "
            f"Images of the step: {', '.join(suspects)}"
        )

    def names_on_all_ranks(self, indices: list[Tensor]) -> list[str]:
        names = [self.loader.source.name(i) for index in indices for i in index.tolist()]
        return list(itertools.chain(*comm.all_gather(names)))


def on_device(value, device: torch.device | str):
    """An entry of a batch: tensors, and lists of them, on `device`; anything else as it is."""
    if isinstance(value, list):
        return [on_device(part, device) for part in value]
    return value.to(device, non_blocking=True) if torch.is_tensor(value) else value
