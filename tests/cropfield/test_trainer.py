"""Steps of several passes, averaged weights, early ends, checkpoints that are whole."""

from contextlib import nullcontext

import pytest
import torch
from detectron2.engine import hooks
from detectron2.evaluation import COCOEvaluator
from torch import nn

from cropfield.checkpoint import AtomicCheckpointer
from cropfield.hooks import BestCheckpointer, EarlyStopping, ModelEMA, check_best_metric
from cropfield.schedule import passes
from cropfield.trainer import DetectionTrainer
from pretrain.errors import UserError


class Regression(nn.Module):
    """A detector's interface: a list of dictionaries in, a dictionary of losses out."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch: list[dict]) -> dict:
        outputs = self.linear(torch.stack([sample["x"] for sample in batch]))
        targets = torch.stack([sample["y"] for sample in batch])
        return {"loss_square": (outputs - targets).square().mean(), "loss_sum": outputs.mean().square()}


def samples(count: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return [{"x": draw(3), "y": draw(1), "file_name": f"{number}.jpg"} for number in range(count)]


def trainer_of(batches: list, **options) -> DetectionTrainer:
    torch.manual_seed(0)
    model = Regression()
    return DetectionTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def test_passes_add_up_to_the_batch():
    data = samples(8)
    for sample in data:
        sample["y"] = torch.zeros(1)
    parts = [data[:2], data[2:4], data[4:6], data[6:]]
    whole, cut = trainer_of([data]), trainer_of(parts, accumulate=4)
    for trainer in (whole, cut):
        trainer.model.forward = lambda batch, model=trainer.model: {
            "loss": Regression.forward(model, batch)["loss_square"]
        }
        trainer.train(0, 1)
    torch.testing.assert_close(cut.model.state_dict(), whole.model.state_dict())
    assert cut.batch_files == whole.batch_files == [f"{n}.jpg" for n in range(8)]
    assert cut.storage.latest()["total_loss"][0] == pytest.approx(whole.storage.latest()["total_loss"][0])


def test_mixed_precision_keeps_the_weights_in_float32():
    trainer, seen = trainer_of([samples(4)], precision=torch.bfloat16), []
    trainer.model.linear.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    trainer.train(0, 1)
    assert seen == [torch.bfloat16] and trainer.model.linear.weight.dtype == torch.float32


def test_a_step_whose_loss_is_not_finite_is_not_taken():
    data = samples(2)
    data[1]["x"][0] = float("inf")
    trainer = trainer_of([data])
    before = trainer.model.linear.weight.clone()
    with pytest.raises(FloatingPointError):
        trainer.train(0, 5)
    assert torch.equal(trainer.model.linear.weight, before) and trainer.batch_files == ["0.jpg", "1.jpg"]


def test_the_average_is_the_formulas():
    trainer = trainer_of([samples(4)] * 5)
    ema, expected = ModelEMA(trainer.model, decay=0.3), None
    trajectory = []
    record = hooks.CallbackHook(after_step=lambda t: trajectory.append(t.model.linear.weight.detach().clone()))
    trainer.register_hooks([ema, record])
    trainer.train(0, 5)
    for step, weight in enumerate(trajectory):
        keep = min(0.3, (1 + step) / (10 + step))
        expected = weight if step == 0 else keep * expected + (1 - keep) * weight
    torch.testing.assert_close(ema.averaged.module.linear.weight, expected)
    assert not torch.equal(expected, trajectory[-1])


def measured(values: list[float]):
    """A hook that reports one value an iteration."""
    return hooks.CallbackHook(
        after_step=lambda t: t.storage.put_scalar("bbox/AP", values[t.iter], smoothing_hint=False)
    )


def test_early_stopping_counts_evaluations_without_a_rise():
    trainer = trainer_of([samples(2)] * 10)
    trainer.register_hooks([measured([1, 3, 2, float("nan"), 4, 4, 3, 9, 9, 9]), EarlyStopping("bbox/AP", patience=2)])
    trainer.train(0, 10)
    assert trainer.iter == trainer.max_iter == 4  # 3 was the best; 2 and nan did not rise above it


def test_an_early_stop_that_was_interrupted_goes_on():
    stopping = EarlyStopping("bbox/AP", patience=2)
    stopping.load_state_dict({"best": 5.0, "waited": 1})
    trainer = trainer_of([samples(2)] * 10)
    trainer.register_hooks([measured([4.0] * 10), stopping])
    trainer.train(0, 10)
    assert trainer.iter == 1 and stopping.state_dict() == {"best": 5.0, "waited": 2}


def test_the_best_checkpoint_outlives_a_resume(tmp_path):
    for values, state, best in (([1.0, 7.0, 3.0], None, 1), ([6.0, 5.0, 2.0], {"best_metric": 7.0, "best_iter": 1}, 1)):
        trainer = trainer_of([samples(2)] * 3)
        kept = BestCheckpointer(1, AtomicCheckpointer(trainer.model, str(tmp_path), resumable=False), "bbox/AP")
        if state:
            kept.load_state_dict(state)
        trainer.register_hooks([measured(values), kept])
        trainer.train(0, 3)
        assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == best == kept.best_iter
        assert not (tmp_path / "last_checkpoint").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    model = Regression()
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model", iteration=1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left"):
        checkpointer.save("model", iteration=2)
    assert torch.load(tmp_path / "model.pth", weights_only=True)["iteration"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]


@pytest.mark.parametrize("batch, gpus, images, expected", [(64, 8, 0, 1), (64, 8, 1, 8), (64, 1, 4, 16), (2, 1, 2, 1)])
def test_how_a_batch_is_cut(batch, gpus, images, expected):
    assert passes(batch, gpus, images) == expected


@pytest.mark.parametrize(
    "batch, gpus, images, words", [(63, 8, 0, "63 images does not divide"), (8, 1, 3, "divisor of 8")]
)
def test_a_batch_that_does_not_divide(batch, gpus, images, words):
    with pytest.raises(UserError, match=words):
        passes(batch, gpus, images)


@pytest.mark.parametrize(
    ("metric", "patience", "period", "words"),
    [
        ("bbox/AP", 1, 0, "early_stopping.patience=1 needs evaluations on the way, and train.eval_period=0"),
        ("bbox/AP", 1, 10, "makes none within 10 iterations"),
        ("bbox/mAP", 0, 5, "'bbox/mAP' is none of the figures of an evaluation; choose one of bbox/AP, "),
        ("segm/AP", 0, 5, "'segm/AP' is none"),
        ("bbox/AP-horse", 0, 5, "'bbox/AP-horse' is none"),
        ("bbox/AP-cat", 2, 5, None),
        ("bbox/mAP", 0, 0, None),  # never asked for
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused(metric, patience, period, words):
    evaluator = COCOEvaluator.__new__(COCOEvaluator)
    evaluator._tasks = ("bbox",)
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check_best_metric(metric, patience, period, 10, evaluator, ["cat", "dog"])
