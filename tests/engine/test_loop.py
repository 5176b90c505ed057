"""How a training ends: after its last step, by a hook, or by a crash."""

import pytest
from detectron2.engine import HookBase

from pretrain.engine.loop import TrainingLoop


class Loop(TrainingLoop):
    """Counts its steps; step `bug` fails."""

    def __init__(self, bug: int | None = None):
        super().__init__()
        self.bug, self.steps = bug, 0

    def run_step(self) -> None:
        if self.iter == self.bug:
            raise RuntimeError("a bug")
        self.steps += 1


class Ends(HookBase):
    """Stops after `last` steps, and notes whether hooks of Detectron2 would take the run's end for a complete one."""

    def __init__(self, last: int = 99):
        self.last, self.complete = last, []

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.last:
            self.trainer.stop(self.last)

    def after_train(self) -> None:
        self.complete.append(self.trainer.iter + 1 >= self.trainer.max_iter)


@pytest.mark.parametrize(("last", "steps"), [(99, 5), (3, 3)])
def test_a_run_ends_after_its_last_step_or_where_a_hook_stops_it(last, steps):
    loop, ends = Loop(), Ends(last)
    loop.register_hooks([ends])
    loop.train(0, 5)
    assert loop.steps == loop.iter == loop.max_iter == steps and ends.complete == [True]


def test_a_crash_in_the_last_step_is_no_complete_run():
    loop, ends = Loop(bug=4), Ends()
    loop.register_hooks([ends])
    with pytest.raises(RuntimeError, match="a bug"):
        loop.train(0, 5)
    assert loop.steps == 4 and ends.complete == [False]
