"""Training checkpoints: one file, replaced atomically, loaded without running code from it."""

import logging
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from pretrain.engine.distributed import seed_rank
from pretrain.errors import UserError
from pretrain.files import read_torch_file, replacing

LAST = "last.pth"


def save_checkpoint(path: Path, state: dict) -> None:
    """Write `state` beside `path` and then rename it into place: a reader sees the old file or the new one, whole.

    Raises:
        UserError: it could not be written (a full disk, say); the file that was at `path` is untouched.
    """
    with replacing(path) as draft:
        torch.save(state, draft)


def load_checkpoint(path: Path) -> dict:
    """The state in `path`, on the CPU.

    Raises:
        UserError: no such file, truncated, or not a plain checkpoint (one that would run code is refused).
    """
    state = read_torch_file(path)
    if not isinstance(state, dict) or "model" not in state:
        raise UserError(f"{path}: holds no training state; give the last.pth of a pretraining run")
    return state


class PeriodicCheckpoint(HookBase):
    """Saves the whole training state every `period` steps and at the end."""

    def __init__(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, period: int):
        self.path, self.model, self.optimizer, self.period = Path(path), model, optimizer, period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            state = training_state(self.model, self.optimizer, done)
            if comm.is_main_process():
                save_checkpoint(self.path, state)


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
        **model.describe(),
    }


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a training state in place and return the number of steps that were done.

    Raises:
        UserError: the file belongs to another model.
    """
    state = load_checkpoint(path)
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: was written by another model or config and cannot be resumed: {reason}") from error
    restore_rng(state["rng"], state["iteration"])
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
