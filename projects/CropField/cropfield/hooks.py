"""Additions to Detectron2's hooks: weight averaging, early stopping, and checkpointing that survives a resume."""

import logging
from pathlib import Path

import torch
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pretrain.engine.signals import EXIT_STOPPED, StopOnSignal
from pretrain.errors import UserError

logger = logging.getLogger(__name__)


class ModelEMA(HookBase):
    """Exponential moving average of the weights, updated after every step.

    The decay at step t is min(decay, (1 + t) / (10 + t)), so that the random initial weights are forgotten quickly.
    Buffers are copied from the model.

    Args:
        decay: the fraction of the average that each step keeps.
    """

    def __init__(self, model: nn.Module, decay: float):
        def average(averaged: list[torch.Tensor], current: list[torch.Tensor], steps: torch.Tensor) -> None:
            keep = min(decay, (1 + int(steps)) / (10 + int(steps)))
            torch._foreach_lerp_(averaged, current, 1 - keep)

        self.model = model
        self.averaged = AveragedModel(model, multi_avg_fn=average)

    def after_step(self) -> None:
        self.averaged.update_parameters(self.model)


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's, with its best value kept across a resume; without it, a better checkpoint would be overwritten."""

    def state_dict(self) -> dict:
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best_metric, self.best_iter = state_dict["best_metric"], state_dict["best_iter"]


class EarlyStopping(HookBase):
    """Stop training when a metric has not improved for `patience` evaluations. List it after `EvalHook`.

    Args:
        metric: name in the event storage, such as "bbox/AP".
        patience: number of evaluations without a new best value.
    """

    def __init__(self, metric: str, patience: int):
        self.metric, self.patience = metric, patience
        self.best, self.waited = float("-inf"), 0

    def before_train(self) -> None:
        if self.waited >= self.patience:  # a run that had ended so is resumed
            self.trainer.stop(self.trainer.start_iter)
            logger.warning("early stopping had ended this run, so no step is left; raise train.early_stopping.patience")

    def after_step(self) -> None:
        value, measured = self.trainer.storage.latest().get(self.metric, (None, None))
        if measured != self.trainer.iter:
            return
        self.waited = 0 if value > self.best else self.waited + 1
        self.best = max(self.best, value) if value == value else self.best  # ignore NaN, an undefined AP
        if self.waited >= self.patience:
            logger.info("%s has not risen above %.3f for %d evaluations: stopping", self.metric, self.best, self.waited)
            self.trainer.stop(self.trainer.iter + 1)

    def state_dict(self) -> dict:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best, self.waited = state_dict["best"], state_dict["waited"]


def check_best_metric(metric: str, patience: int, period: int, max_iter: int, evaluator, classes: list[str]) -> None:
    """Raise UserError if `evaluator` does not compute `metric`, or early stopping has no evaluations to act on.

    patience: in evaluations; 0 is off. period: iterations between evaluations; 0 is none. classes: names for per-class
    AP.
    """
    if patience and not 0 < period < max_iter:
        raise UserError(
            f"train.early_stopping.patience={patience} needs evaluations in training, but train.eval_period={period} "
            f"makes none within {max_iter} iterations; set train.eval_period, or patience to 0"
        )
    known = []
    if isinstance(evaluator, COCOEvaluator):
        figures = ["AP", "AP50", "AP75", "APs", "APm", "APl", *(f"AP-{name}" for name in classes if len(classes) > 1)]
        known = [f"{task}/{figure}" for task in evaluator._tasks or ("bbox", "segm") for figure in figures]
    elif isinstance(evaluator, SemSegEvaluator):
        figures = ["mIoU", "fwIoU", "mACC", "pACC", *(f"{kind}-{name}" for kind in ("IoU", "ACC") for name in classes)]
        known = [f"sem_seg/{figure}" for figure in figures]
    if period and known and metric not in known:
        first = ", ".join(known[:8])
        raise UserError(f"train.best_metric={metric!r} is not a metric of the evaluation; choose one of {first}, ...")


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's; it also saves the final model when a training ends early, and when a signal stops it (`save_now`).

    The limit on the number of checkpoints also counts those from before a resume.
    """

    def before_train(self) -> None:
        super().before_train()
        numbered = Path(self.checkpointer.save_dir).glob(f"{self.file_prefix}_[0-9]*.pth")
        self.recent_checkpoints = sorted(map(str, numbered))

    def after_step(self) -> None:
        self.max_iter = self.trainer.max_iter
        super().after_step()

    def save_now(self, done: int) -> None:
        """Save the state after `done` steps, unless that was the last thing done."""
        name = f"{self.file_prefix}_{done - 1:07d}"
        if self.checkpointer.saved != name:
            self.checkpointer.save(name, iteration=done - 1)


class Stoppable:
    """Loader for evaluations during training; the last evaluation ends if `stop` has received a signal.

    Everything is saved by then. Earlier evaluations are finished first, because the best checkpoint and early stopping
    depend on them. With several processes all evaluations are finished, because they would have to agree to stop.

    Raises (while iterating):
        SystemExit: with EXIT_STOPPED.
    """

    def __init__(self, loader, stop: StopOnSignal):
        self.loader, self.stop = loader, stop

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        trainer = self.stop.trainer
        for batch in self.loader:
            if self.stop.received and trainer.iter >= trainer.max_iter and comm.get_world_size() == 1:
                raise SystemExit(EXIT_STOPPED)
            yield batch
