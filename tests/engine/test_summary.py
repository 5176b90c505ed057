"""The forecast is made from the second step, and only if others follow."""

import logging
from pathlib import Path

import pytest

from pretrain.engine import summary as module
from pretrain.engine.loop import TrainingLoop
from pretrain.engine.summary import Summary


@pytest.mark.parametrize(
    "steps, told", [(1, []), (2, []), (12, ["the second step took 2.0 s; at that speed the others take 0:00:20"])]
)
def test_how_long_the_others_take(steps, told, monkeypatch, caplog):
    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    clock, trainer = Clock(), TrainingLoop()
    monkeypatch.setattr(module, "time", clock)

    def run_step() -> None:
        clock.now += 60 if trainer.iter == 0 else 2
        trainer.storage.put_scalars(images=16, broken_images=0)

    trainer.run_step = run_step
    trainer.register_hooks([Summary(Path("last.pth"))])
    with caplog.at_level(logging.INFO):
        trainer.train(0, steps)
    assert [line for line in caplog.messages if "others take" in line] == told
    assert any(line.startswith(f"done: {steps} step{'s' * (steps > 1)} in ") for line in caplog.messages)
