"""Diagnostics of the run every few steps, and warnings that name the likely cause of a problem."""

import logging
import math
from statistics import median

import torch
from detectron2.engine import HookBase

from pretrain.engine.loop import due
from pretrain.methods.symptoms import symptoms
from pretrain.ranges import Count, Share, Whole

EXPLODED = 10  # times the gradient norm of the steps before
BEFORE = (100, 500)  # steps before that a gradient norm is compared with: at least, at most

logger = logging.getLogger(__name__)


class Monitor(HookBase):
    """Logs the method's `diagnose` of the step's own batch as `monitor/*`, and warns of symptoms.

    A symptom must show in `confirm` consecutive checks. One that is there at the first check, which is after the first
    step and not logged, may be normal at the start, and is warned of only after `patience`.

    Args:
        period: steps between checks; 0 turns the monitor off. A check takes 0.4 to 0.5 of a step, 2.5% at 20.
        confirm: consecutive checks that show a symptom before a warning.
        patience: fraction of training during which symptoms of the first check are tolerated.
        remind: steps after which a symptom that persists is warned of again.
    """

    def __init__(self, period: Whole = 20, confirm: Count = 3, patience: Share = 0.1, remind: Count = 1000):
        self.period, self.confirm, self.patience, self.remind = period, confirm, patience, remind
        self.from_start: set[str] | None = None  # symptoms that every check showed
        self.since: dict[str, int] = {}  # for each symptom that shows now: the step from which on it did
        self.checks: dict[str, int] = {}  # and the number of consecutive checks that showed it
        self.quiet_until: dict[str, int] = {}

    def after_step(self) -> None:
        done, storage = self.trainer.iter + 1, self.trainer.storage
        logged = due(done, self.period)
        if logged or (self.period and self.from_start is None):
            values = self.diagnose()
            self.judge(symptoms(values) | exploding_gradients(storage.histories(), self.period), done)
        if logged:
            named = {f"monitor/{name}": value for name, value in values.items()}
            storage.put_scalars(**named, smoothing_hint=False)

    def diagnose(self) -> dict[str, float]:
        """The method's diagnostics of the last batch, finite values only; synchronises with the device once."""
        with torch.autocast(self.trainer.device.type, torch.bfloat16, enabled=self.trainer.amp):
            try:
                tensors = self.trainer.model.diagnose(self.trainer.batch)
            except torch.linalg.LinAlgError:  # of weights that are not finite: the next step's loss says so
                return {}
        if not tensors:
            return {}
        numbers = torch.stack([value.float() for value in tensors.values()]).tolist()
        return {name: value for name, value in zip(tensors, numbers, strict=True) if math.isfinite(value)}

    def judge(self, found: dict[str, str], step: int) -> None:
        """Warn of the symptoms {name: sentence} of this check that have lasted."""
        self.from_start = set(found) if self.from_start is None else self.from_start & found.keys()
        self.since = {name: self.since.get(name, step) for name in found}
        self.checks = {name: self.checks.get(name, 0) + 1 for name in found}
        for name, sentence in found.items():
            patient = name in self.from_start and step < self.patience * self.trainer.max_iter
            lasted = self.checks[name] >= self.confirm and not patient
            if lasted and step >= self.quiet_until.get(name, 0):
                self.quiet_until[name] = step + self.remind
                logger.warning(f"step {step}: {sentence}. Seen at every check since step {self.since[name]}")


def exploding_gradients(histories: dict, window: int) -> dict[str, str]:
    """A symptom for each `grad_norm/*`, taken before clipping, whose last `window` steps are far above those before.

    A part whose gradient is still below what another's was is none: StoP's backbone has next to none at first.

    Args:
        histories: fvcore `HistoryBuffer`s by name.
    """
    found, norms = {}, {}
    for name, history in histories.items():
        values = [value for value, _ in history.values()[-BEFORE[1] - window :]]
        if name.startswith("grad_norm/") and len(values) >= BEFORE[0] + window:
            norms[name] = median(values[:-window]), median(values[-window:])
    largest = max((before for before, _ in norms.values()), default=0)
    for name, (before, now) in norms.items():
        if now > max(EXPLODED * before, largest) and before > 0:
            found[f"{name} explodes"] = (
                f"gradients explode ({name} is {now:.3g}, it was {before:.3g}). Likely causes: a learning rate that is "
                "too high, a warm-up that is too short, train.clip_grad switched off"
            )
    return found
