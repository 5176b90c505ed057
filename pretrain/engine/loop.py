"""The loop of both trainings, of a backbone and of a detector: Detectron2's, which a hook may end early."""

import logging
import sys

from detectron2.engine import TrainerBase
from detectron2.utils.events import EventStorage

from pretrain.errors import UserError, reason

logger = logging.getLogger(__name__)


def due(done: int, period: int) -> bool:
    """Whether the first `done` steps end in one that comes every `period` of them; 0 is never."""
    return period > 0 and done % period == 0


class TrainingLoop(TrainerBase):
    """`TrainerBase` with `stop`, and a sentence for what fails in the first step, where a config's parts first meet."""

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the steps from `start_iter` to `max_iter`. Raises UserError where the first one fails."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter, self.start_iter, self.max_iter = start_iter, start_iter, max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except BaseException as error:
                self.max_iter = sys.maxsize  # what hooks do at the end of a training is not to be done now
                self.explain(error)
                raise
            finally:
                self.after_train()

    def explain(self, error: BaseException) -> None:
        """Raise UserError of an error in the first step that is none of the user's yet; log a later one."""
        if isinstance(error, UserError | FloatingPointError) or not isinstance(error, Exception):
            return
        if self.iter > self.start_iter:
            logger.exception("Exception during training:")
            return
        raise UserError(
            f"the first step failed ({type(error).__name__}: {reason(error)}): values of the config that do not go "
            "together, or this machine's limits, are the likely cause. With CROPFIELD_TRACEBACK=1 it shows where"
        ) from error

    def stop(self, done: int) -> None:
        """End the run after `done` steps, which are those done by now; for hooks, in every process."""
        self.max_iter = done
