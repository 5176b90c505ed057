"""Training checkpoints: one file, replaced atomically, loaded without running code from it."""

import logging
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from pretrain.engine.distributed import seed_rank
from pretrain.errors import UserError
from pretrain.files import read_torch_file, write_torch_file

LAST = "last.pth"


def load_checkpoint(path: Path) -> dict:
    """The state in `path`, on the CPU.

    Raises:
        UserError: no such file, truncated, or not a plain checkpoint (one that would run code is refused).
    """
    state = read_torch_file(path)
    model = state.get("model") if isinstance(state, dict) else None
    if not isinstance(model, dict) or not all(isinstance(value, torch.Tensor) for value in model.values()):
        raise UserError(f"{path}: holds no training state; give the last.pth of a pretraining run")
    steps = state.get("iteration", 0)
    if type(steps) is not int or steps < 0:
        raise UserError(
            f"{path}: its number of steps is {str(steps)[:40]!r}; take an earlier checkpoint, or copy it again"
        )
    return state


class PeriodicCheckpoint(HookBase):
    """Saves the whole training state every `period` steps and at the end, as last.pth.

    Args:
        folder: of last.pth.
        keep_period: every so many steps the state also goes into a file that stays, step_0001000.pth; 0: never.
    """

    def __init__(
        self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, period: int, keep_period: int = 0
    ):
        self.folder, self.model, self.optimizer = Path(folder), model, optimizer
        self.period, self.keep_period = period, keep_period
        self.saved: int | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or self._stays(done) or done == self.trainer.max_iter:
            self.save(done)

    def save(self, done: int) -> None:
        """Save the state after `done` steps, unless that was the last thing done. Call it in every process."""
        if done == self.saved:
            return
        state = training_state(self.model, self.optimizer, done)
        if comm.is_main_process():
            if self._stays(done):  # first: a run cut off between the two files writes both again
                write_torch_file(self.folder / f"step_{done:07d}.pth", state)
            write_torch_file(self.folder / LAST, state)
        self.saved = done

    def _stays(self, done: int) -> bool:
        return self.keep_period > 0 and done % self.keep_period == 0


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int) -> dict:
    """Everything that the next step depends on. The data order needs no state: it is a function of seed and step.

    All ranks must call it; the main one gets the random numbers of all.
    """
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": iteration,
        "rng": comm.gather(rng),
        "metadata": {"method": type(model).__name__, "iteration": str(iteration), **model.backbone.facts},
    }


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a training state in place and return the number of steps that were done.

    Raises:
        UserError: the file belongs to another model, or holds a model and nothing of its training.
    """
    state = load_checkpoint(path)
    if not {"optimizer", "iteration", "rng"} <= state.keys():
        raise UserError(f"{path}: holds a model but not the state of its training; give a file of a pretraining run")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # an optimizer's state of another form raises what it stumbles on
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: was written by another model or config and cannot be resumed: {reason}") from error
    try:
        restore_rng(state["rng"], state["iteration"])
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: its random numbers are damaged ({reason}); take an earlier checkpoint") from error
    return state["iteration"]


def restore_rng(states: list[dict], iteration: int) -> None:
    """Random numbers go on where each rank's were; on another number of processes they begin anew from the step.

    Images, crops and masks are the same on any number of processes: what differs is which paths are dropped.
    """
    if len(states) != comm.get_world_size():
        logging.getLogger(__name__).warning(
            f"saved by {len(states)} processes, resumed by {comm.get_world_size()}: images, crops and masks stay the "
            "same, drop path is drawn anew"
        )
        seed_rank(torch.initial_seed(), iteration)
        return
    state = states[comm.get_rank()]
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
