"""Where a run writes what it logs: the console line, Weights & Biases, and a sentence where it cannot be written."""

import datetime
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.engine import hooks
from detectron2.utils.events import EventWriter, get_event_storage

from pretrain.errors import UserError


class ConsoleWriter(EventWriter):
    """Progress, ETA, loss and its parts, learning rate, images/s, and the share of time spent waiting for data."""

    def __init__(self, max_iter: int, window: int = 50):
        self.max_iter, self.window = max_iter, window
        self.logger = logging.getLogger(__name__)

    def write(self) -> None:
        storage = get_event_storage()
        done = storage.iter + 1
        if storage.iter >= self.max_iter or "time" not in storage.histories():
            return  # after the last step, and before the first is timed

        def smooth(name: str) -> float:
            return storage.history(name).avg(min(self.window, storage.count_samples(name, self.window)))

        step_time = smooth("time")
        eta = datetime.timedelta(seconds=int(step_time * (self.max_iter - done)))
        parts = ", ".join(
            f"{name.removeprefix('loss_')} {smooth(name):.3f}"
            for name in storage.histories()
            if name.startswith("loss_")
        )
        line = (
            f"step {done}/{self.max_iter}  eta {eta}  loss {smooth('total_loss'):.3f} ({parts})  "
            f"lr {storage.history('lr').latest():.2e}  {smooth('images') / step_time:.1f} images/s  "
            f"waiting for data {smooth('data_time') / step_time:.0%}"
        )
        if torch.cuda.is_available():
            line += f"  memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        self.logger.info(line)


class WandbWriter(EventWriter):
    """Scalars and pictures to Weights & Biases, which must be installed (`pip install wandb`).

    Args:
        window_size: steps over which scalars are smoothed by their median, as the other writers do.
        options: arguments of `wandb.init`: project, name, dir, id and resume="allow" to go on with a run, ...

    Raises:
        UserError: wandb is not installed.
    """

    def __init__(self, window_size: int = 20, **options):
        try:
            import wandb
        except ImportError:
            raise UserError(
                "Weights & Biases is in the config and not installed; pip install wandb, or take it out"
            ) from None
        self.wandb, self.window_size = wandb, window_size
        self.run = wandb.init(**options)
        self.last_write = -1

    def write(self) -> None:
        storage = get_event_storage()
        steps: dict[int, dict] = {}  # W&B wants them in order
        for name, (value, step) in storage.latest_with_smoothing_hint(self.window_size).items():
            if step > self.last_write:
                steps.setdefault(step, {})[name] = value
        for name, picture, step in storage._vis_data:  # Detectron2 has no public way to read them
            steps.setdefault(step, {})[name] = self.wandb.Image(picture.transpose(1, 2, 0))
        for step in sorted(steps):
            self.run.log(steps[step], step=step)
            self.last_write = step

    def close(self) -> None:
        self.run.finish()


class PeriodicWriter(hooks.PeriodicWriter):
    """Detectron2's. A full disk ends the run with a `UserError`: figures that are lost, or a checkpoint soon after."""

    def after_step(self) -> None:
        with _write_errors_told():
            super().after_step()

    def after_train(self) -> None:
        with _write_errors_told():
            super().after_train()


@contextmanager
def _write_errors_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the run's figures to train.output_dir: {error.strerror or error}. The last saved checkpoint "
            "is good: mend the disk, then go on with --resume"
        ) from error
