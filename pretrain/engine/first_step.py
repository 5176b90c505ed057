"""What the first step of a training cannot do is told as a mistake in the config, whose parts meet there first."""

import functools

from pretrain.engine.yaml_config import reason
from pretrain.errors import UserError


def tells_of_first_step(trainer: type) -> type:
    """Decorate a trainer of Detectron2's kind. Later steps raise what they raise."""
    for name in ("before_train", "before_step", "run_step", "after_step"):
        setattr(trainer, name, _told(getattr(trainer, name)))
    return trainer


def _told(method):
    @functools.wraps(method)
    def wrapper(self):
        try:
            method(self)
        except (UserError, FloatingPointError):
            raise
        except Exception as error:
            if self.iter > self.start_iter:
                raise
            raise UserError(
                f"the first step failed ({type(error).__name__}: {reason(error)}): values of the config that do not go "
                "together, or this machine's limits, are the likely cause. With CROPFIELD_TRACEBACK=1 it shows where"
            ) from error

    return wrapper
