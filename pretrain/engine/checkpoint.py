"""Training checkpoints: one file, replaced atomically, loaded without running code from it."""

import logging
import math
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from pretrain.engine.distributed import seed_rank
from pretrain.engine.loop import due
from pretrain.errors import UserError, in_a_line
from pretrain.files import read_torch_file, write_torch_file

LAST = "last.pth"
INITIAL = "initial.safetensors"  # the backbone before the first step: what pretraining is compared with
BEST = "best_detection.pth"  # the backbone with the best detection probe
# What readers of a state stumble on where it is damaged or of something else.
BAD_STATE = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError)
SCALARS = {"step", "mu_product", "eta", "mu"}  # in the states of torch's optimizers
FACTORS = {"row_var", "col_var"}  # Adafactor's, of a matrix; of a vector it has "variance"
KIND_OPTIONS = {"betas", "momentum", "alpha", "lr_decay", "rho"}  # options by which torch's optimizers differ

logger = logging.getLogger(__name__)


def load_checkpoint(path: Path) -> dict:
    """The state in `path`, on the CPU.

    Raises:
        UserError: no such file, truncated, or not a plain checkpoint (one that would run code is refused).
    """
    state = read_torch_file(path)
    model = state.get("model") if isinstance(state, dict) else None
    if not isinstance(model, dict) or not all(isinstance(value, torch.Tensor) for value in model.values()):
        raise UserError(f"{path}: holds no training state; give the last.pth of a pretraining run")
    try:
        check_steps(state.get("iteration", 0))
    except ValueError as error:
        raise UserError(f"{path}: {error}; take an earlier checkpoint, or copy it again") from None
    return state


class PeriodicCheckpoint(HookBase):
    """Saves the whole training state every `period` steps and at the end, as last.pth.

    Args:
        folder: of last.pth.
        keep_period: every so many steps the state also goes into a file that stays, step_0001000.pth; 0: never.
        batch_size: images a step, over all processes; goes into the state, see `resume_step`.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        period: int,
        keep_period: int = 0,
        batch_size: int | None = None,
    ):
        self.folder, self.model, self.optimizer, self.batch_size = Path(folder), model, optimizer, batch_size
        self.period, self.keep_period = period, keep_period
        self.saved: int | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if due(done, self.period) or due(done, self.keep_period) or done == self.trainer.max_iter:
            self.save(done)

    def after_train(self) -> None:
        """A run that a hook has ended early keeps its last state."""
        if self.trainer.start_iter < self.trainer.iter == self.trainer.max_iter:
            self.save(self.trainer.iter)

    def save(self, done: int) -> None:
        """Save the state after `done` steps, unless that was the last thing done. Call it in every process.

        Raises:
            UserError: it is not finite (what was saved before stays), or it cannot be written.
        """
        if done == self.saved:
            return
        check_finite({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, done)
        state = training_state(self.model, self.optimizer, done, self.batch_size)
        if comm.is_main_process():
            if due(done, self.keep_period):  # first: a run cut off between the two files finds this one, and goes on
                write_kept(self.folder / f"step_{done:07d}.pth", state)
            write_torch_file(self.folder / LAST, state)
        self.saved = done


def write_kept(path: Path, state: dict) -> None:
    """Write a state that is to stay; one that is there stays, and it is logged."""
    if path.exists():
        logger.warning(f"{path} exists and stays, so this state is not kept beside it; move files of other runs away")
    else:
        write_torch_file(path, state)


def refuse_later_steps(folder: Path, start: int, batch_size: int) -> None:
    """Raise UserError where a kept file's step is after `start`: steps of another batch size than `batch_size`."""
    for path in sorted(folder.glob("step_*.pth")):
        if (number := path.stem.removeprefix("step_")).isdecimal() and int(number) > start:
            raise UserError(
                f"{path}: counts steps of another batch size, and the run, at {batch_size} images a step, goes on at "
                f"{start}; move the step_*.pth out of {folder}, or keep the batch size"
            )


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, batch_size: int | None = None
) -> dict:
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
        "batch_size": batch_size,
        "rng": comm.gather(rng),
        "metadata": backbone_metadata(model, iteration),
    }


def backbone_metadata(model: nn.Module, iteration: int) -> dict[str, str]:
    """Metadata of files that hold the backbone: whose it is, its architecture, and how its pixels were normalised."""
    statistics = {name: getattr(model, name) for name in ("image_mean", "image_std") if hasattr(model, name)}
    pixels = {name: ",".join(f"{v:.6g}" for v in values.flatten().tolist()) for name, values in statistics.items()}
    return {"method": type(model).__name__, "iteration": str(iteration), **model.backbone.metadata, **pixels}


def check_finite(state: dict, done: int) -> None:
    """Raise UserError where a tensor somewhere in `state`, of after `done` steps, holds inf or nan."""
    if name := _not_finite(state):
        raise UserError(
            f"after {done} steps {name} is not finite (inf or nan), so nothing is saved; checkpoints from before are "
            "good: lower optimizer.lr, and go on from the last one with --resume"
        )


def _not_finite(value, name: str = "") -> str | None:
    """The name of the first tensor that is not, or None."""
    if isinstance(value, torch.Tensor):
        return name if value.is_floating_point() and not torch.isfinite(value).all() else None
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next(filter(None, (_not_finite(part, f"{name}.{key}".lstrip(".")) for key, part in entries)), None)


def restore(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_size: int | None = None,
    total: int | None = None,
) -> int:
    """Load a training state in place and return the step to go on at, see `resume_step`.

    Raises:
        UserError: the file belongs to another model, holds a model and nothing of its training, or nonsense; or
            nothing is left to do; or files of later steps lie beside it, see `refuse_later_steps`.
    """
    state = load_checkpoint(path)
    if not {"optimizer", "iteration", "rng"} <= state.keys():
        raise UserError(f"{path}: holds a model but not the state of its training; give a file of a pretraining run")
    try:
        check_model_state(state["model"], model.state_dict())
        model.load_state_dict(state["model"])
        load_optimizer(optimizer, state["optimizer"])
        saved = state.get("batch_size")
        iteration = resume_step(path, state["iteration"], saved, batch_size, total)
        if None not in (saved, batch_size) and saved != batch_size:
            refuse_later_steps(Path(path).parent, iteration, batch_size)
        restore_rng(state["rng"], iteration)
    except BAD_STATE as error:
        raise UserError(
            f"{path}: is damaged, or was written by another model or config, and cannot be resumed: "
            f"{in_a_line(error)}; go on with that config, or from another file"
        ) from error
    return iteration


def check_model_state(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Raise ValueError where a tensor of a state is not finite, or was rounded to another type than the model's."""
    if name := _not_finite(found):
        raise ValueError(f"{name} is not finite")
    for name in found.keys() & wanted.keys():
        theirs, ours = (str(getattr(tensors[name], "dtype", "none")) for tensors in (found, wanted))
        if theirs != ours:
            raise ValueError(f"{name} is {theirs} in the file and {ours} in the model".replace("torch.", ""))


def check_steps(number) -> int:
    """`number`, if it can be a number of steps. Raises ValueError."""
    if type(number) is not int or not 0 <= number < 2**53:
        raise ValueError(f"its number of steps is {number!r}"[:80])
    return number


def resume_step(path: Path, done: int, saved: int | None, batch_size: int | None, total: int | None) -> int:
    """The step at which a run goes on that has done `done` steps with batches of `saved` images.

    What was seen counts in images: with another batch size the step is another one, and no image is left out.

    Args:
        path: the state, for messages.  saved, batch_size: None: not known, and taken to be the same.
        total: steps of `batch_size` that the config asks for; None: not known.

    Raises:
        ValueError: `saved` can be no batch's size.
        UserError: a change leaves nothing to do. A run that had come to its end before is no mistake.
    """
    if saved is not None and (type(saved) is not int or saved < 1):
        raise ValueError(f"its batch size is {saved!r}"[:80])
    changed = None not in (saved, batch_size) and saved != batch_size
    start = done * saved // batch_size if changed else done
    if changed:
        logger.warning(
            f"{path}: {done} steps of {saved} images are {start} of {batch_size}; the run goes on after as many images"
        )
    if total is not None and (start > total or (start == total and changed)):
        raise UserError(
            f"{path}: nothing is left to train, for {start} steps of {batch_size} images are done and the config asks "
            f"for {total}; raise train.max_iter or train.epochs, or choose another train.output_dir"
        )
    if start == total:
        logger.warning(f"{path}: all {total} steps were done before, so none is left to train")
    return start


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """`optimizer.load_state_dict`, which takes anything, and whose fused steps then read past the end of a tensor.

    Raises:
        ValueError: the state is of another optimizer, or of other parameters.
    """
    groups, found = optimizer.param_groups, state["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in found]:
        raise ValueError("its optimizer has other groups of parameters")
    numbers = [number for group in found for number in group["params"]]
    parameters = [parameter for group in groups for parameter in group["params"]]
    if any(KIND_OPTIONS & new.keys() != KIND_OPTIONS & old.keys() for new, old in zip(groups, found, strict=True)):
        raise ValueError("it was written by another kind of optimizer")
    if not set(state["state"]) <= set(numbers):
        raise ValueError("its optimizer knows parameters that are in no group")
    if len({frozenset(known) - FACTORS - {"variance"} for known in state["state"].values()}) > 1:
        raise ValueError("its optimizer does not know the same of all parameters")
    for new, old in zip(groups, found, strict=True):
        if wrong := [name for name in new if name != "params" and not _alike(new[name], old.get(name))]:
            raise ValueError(f"{wrong[0]} of its optimizer is {old.get(wrong[0])!r}"[:100])
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in state["state"].get(number, {}).items():
            shape = torch.Size() if name in SCALARS else parameter.shape
            if name in FACTORS and torch.is_tensor(value) and value.dim() == len(shape) > 1:
                shape = (*shape[:-1], 1) if name == "row_var" else (*shape[:-2], 1, shape[-1])
            fits = value is None or torch.is_tensor(value) and value.is_floating_point() and value.shape == shape
            if not fits or (name == "exp_avg_sq" and (value < 0).any()):
                raise ValueError(f"{name} of parameter {number} in its optimizer does not fit {tuple(shape)}")
    if name := _not_finite(state):
        raise ValueError(f"{name} of its optimizer is not finite")
    optimizer.load_state_dict(state)


def _alike(ours, theirs) -> bool:
    """Whether an optimizer's option can be `theirs` where it is `ours`: numbers for numbers, as many of them."""
    if isinstance(ours, tuple | list):
        return isinstance(theirs, tuple | list) and len(ours) == len(theirs) and all(map(_alike, ours, theirs))
    if isinstance(ours, int | float) and not isinstance(ours, bool):
        return isinstance(theirs, int | float) and not isinstance(theirs, bool) and math.isfinite(theirs)
    return ours is None or theirs is None or isinstance(theirs, type(ours))


def restore_rng(states: list[dict], iteration: int) -> None:
    """Random numbers go on where each rank's were; on another number of processes they begin anew from the step.

    Images, crops and masks are the same on any number of processes: what differs is which paths are dropped.
    """
    if len(states) != comm.get_world_size():
        logger.warning(
            f"saved by {len(states)} processes, resumed by {comm.get_world_size()}: images, crops and masks stay the "
            "same, drop path is drawn anew"
        )
        seed_rank(torch.initial_seed(), iteration)
        return
    state = states[comm.get_rank()]
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
