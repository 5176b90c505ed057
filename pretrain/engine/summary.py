"""The summary at the end of a run."""

import datetime
import logging
import shlex
import time
from pathlib import Path

from detectron2.engine import HookBase

logger = logging.getLogger(__name__)


class Summary(HookBase):
    """Logs how long the second step takes, and after a complete run its duration, last values and the next command."""

    def __init__(self, checkpoint: Path):
        self.checkpoint = checkpoint

    def before_train(self) -> None:
        self.started = time.perf_counter()

    def after_step(self) -> None:
        others = self.trainer.max_iter - self.trainer.iter - 1
        if others and self.trainer.iter == self.trainer.start_iter + 1:  # the first also sets up workers and memory
            seconds = time.perf_counter() - self.step_started
            left = datetime.timedelta(seconds=round(seconds * others))
            logger.info(f"the second step took {seconds:.1f} s; at that speed the others take {left}")
        self.step_started = time.perf_counter()

    def after_train(self) -> None:
        if not self.trainer.start_iter < self.trainer.iter == self.trainer.max_iter:
            return  # cut short, or nothing was left to do
        steps = self.trainer.iter - self.trainer.start_iter
        seconds = time.perf_counter() - self.started
        latest = {
            name: value
            for name, (value, at) in self.trainer.storage.latest().items()
            if at > 0 or steps == 1 or not name.startswith(("knn/", "probe/"))  # not those of before the first step
        }
        backbone = self.checkpoint.with_name("backbone.safetensors")
        export = ["tools/export_backbone.py", str(self.checkpoint), "-o", str(backbone)]
        lines = [
            f"done: {steps:,} step{'s' * (steps != 1)} in {datetime.timedelta(seconds=round(seconds))}, "
            f"{steps * latest['images'] / seconds:.1f} images/s",
            f"last losses: {listed(latest, 'total_loss', 'loss_')}",
            f"monitors: {listed(latest, 'monitor/')}",
            f"k-NN: {listed(latest, 'knn/')}",
            f"detection probe: {listed(latest, 'probe/')}",
            f"broken images skipped: {latest['broken_images']:.0f}",
            f"checkpoint: {self.checkpoint}",
            f"next: {shlex.join(export)} (without a checkout: cropfield-export)",
        ]
        logger.info("\n  ".join(line for line in lines if not line.endswith(": ")))


def listed(values: dict[str, float], *beginnings: str) -> str:
    """ "name value, ..." of those whose names begin so, without the part before a slash."""
    names = [name for beginning in beginnings for name in values if name.startswith(beginning)]
    return ", ".join(f"{name.rpartition('/')[2]} {values[name]:.3g}" for name in names)
