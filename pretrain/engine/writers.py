"""Writers of metrics: the console line, Weights & Biases, and a clear error when the disk is full."""

import datetime
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from detectron2.engine import hooks
from detectron2.utils.events import EventWriter, get_event_storage

from pretrain.engine.loop import due
from pretrain.errors import UserError
from pretrain.ranges import Count


class ConsoleWriter(EventWriter):
    """Progress, ETA, loss and its parts, learning rate, images/s, and the share of time spent waiting for data."""

    def __init__(self, max_iter: int, window: Count = 50):
        self.max_iter, self.window = max_iter, window
        self.logger = logging.getLogger(__name__)

    def write(self) -> None:
        storage = get_event_storage()
        done, (_, timed) = storage.iter + 1, storage.latest().get("time", (None, None))
        if timed != storage.iter:
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


def mirror_to_wandb(**options) -> None:
    """Mirror TensorBoard's metrics to Weights & Biases; call it before TensorBoard's writer is made.

    Args:
        options: of `wandb.init`: project, name, dir, id and resume="allow" to go on with a run, ...

    Raises:
        UserError: wandb cannot be imported.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"train.wandb is enabled and wandb cannot be imported ({error}); pip install wandb, or disable it"
        ) from error
    wandb.init(sync_tensorboard=True, **options)


class PeriodicWriter(hooks.PeriodicWriter):
    """Detectron2's. A full disk ends the run with a `UserError`: figures that are lost, or a checkpoint soon after.

    No step is written twice: Detectron2's console writer divides by the number of steps since it last wrote, and would
    end with an error a run that a signal stops just then.
    """

    written: int | None = None  # the last step

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if due(done, self._period) or done == self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        if self.trainer.iter != self.written:  # what other hooks measure after the last step
            self._write()
        with _disk_errors_as_user_errors():
            for writer in self._writers:
                writer.close()

    def _write(self) -> None:
        self.written = self.trainer.iter
        with _disk_errors_as_user_errors():
            for writer in self._writers:
                writer.write()


def is_logged(folder: Path, name: str, done: int) -> bool:
    """Whether metrics.json in `folder` has a value of `name` after `done` steps, made then or by a resumed run."""
    with suppress(OSError), open(folder / "metrics.json", encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError, TypeError, KeyError):  # cut off, or nobody's
                if f'"{name}"' in line and json.loads(line)["iteration"] in (done - 1, done):
                    return True
    return False


@contextmanager
def _disk_errors_as_user_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the run's figures to train.output_dir: {error.strerror or error}. The last saved checkpoint "
            "is good: make room or repair the disk, then go on with --resume"
        ) from error
