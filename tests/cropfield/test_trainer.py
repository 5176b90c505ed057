"""Steps of several passes, averaged weights, early ends, checkpoints that are whole."""

import itertools
import random
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import hooks
from detectron2.evaluation import COCOEvaluator
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn

from cropfield.checkpoint import AtomicCheckpointer, last_file
from cropfield.hooks import (
    BestCheckpointer,
    EarlyStopping,
    ModelEMA,
    PeriodicCheckpointer,
    Stoppable,
    check_best_metric,
)
from cropfield.schedule import passes
from cropfield.trainer import DetectionTrainer
from pretrain.engine.signals import StopOnSignal
from pretrain.errors import UserError
from pretrain.files import read_torch_file


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


def test_a_step_whose_gradient_is_not_finite_is_not_taken():
    trainer = trainer_of([samples(2)])
    trainer.model.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = trainer.model.linear.weight.clone()
    with pytest.raises(FloatingPointError, match="gradient became infinite or NaN at iteration=0"):
        trainer.train(0, 5)
    assert torch.equal(trainer.model.linear.weight, before)


class Drawn:
    """A loader of which each batch is a function of the seed and its number."""

    def batches(self, start: int, seed: int):
        for number in itertools.count(start):
            generator = torch.Generator().manual_seed(1000 * seed + number)
            yield [{"x": torch.randn(3, generator=generator), "y": torch.ones(1)} for _ in range(2)]


class Noisy(Regression):
    """Draws from every global generator."""

    def forward(self, batch):
        noise = torch.rand(1) + random.random() + np.random.rand()
        return {name: loss * noise.item() for name, loss in super().forward(batch).items()}


def noisy_trainer(folder, seed: int, lr: float = 0.1, batch_size: int = 4):
    torch.manual_seed(0)
    model = Noisy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    trainer = DetectionTrainer(model, Drawn(), optimizer, accumulate=2, seed=seed, batch_size=batch_size)
    ema = ModelEMA(model, 0.9)
    checkpointer = AtomicCheckpointer(model, str(folder), trainer=trainer, ema=ema.averaged)
    periodic = PeriodicCheckpointer(checkpointer, period=100, max_to_keep=2)
    trainer.register_hooks([ema, periodic])
    return trainer, checkpointer, periodic


@pytest.mark.parametrize("cuts", [[1], [2, 3], [1, 2, 3, 4, 5, 6]])
def test_a_resumed_training_ends_in_the_same_bits(tmp_path, cuts):
    straight, *_ = noisy_trainer(tmp_path / "straight", 3)
    straight.train(0, 7)
    for cut in [*cuts, 7]:
        torch.rand(cut), random.random()  # what came before in the process has no say
        trainer, checkpointer, periodic = noisy_trainer(tmp_path / "cut", 3)
        if last_file(tmp_path / "cut"):
            checkpointer.resume()
        trainer.train(trainer.iter + 1 if cut != cuts[0] else 0, cut)
        (tmp_path / "cut" / "model_final.pth").rename(tmp_path / "cut" / "final.pth")
        trainer.iter = cut - 1
        periodic.save_now(cut)
    ends = [read_torch_file(tmp_path / name) for name in ("straight/model_final.pth", "cut/model_0000006.pth")]
    for part in ("model", "ema"):
        assert all(torch.equal(value, ends[1][part][name]) for name, value in ends[0][part].items())
    other, *_ = noisy_trainer(tmp_path / "other", 4)
    other.train(0, 7)
    assert not torch.equal(other.model.linear.weight, straight.model.linear.weight)


def test_a_changed_batch_goes_on_after_as_many_images_with_its_own_learning_rate(tmp_path):
    trainer, *_ = noisy_trainer(tmp_path, 3)
    trainer.train(0, 5)
    trainer, checkpointer, _ = noisy_trainer(tmp_path, 3, lr=0.2, batch_size=8)
    halved = hooks.LRScheduler(scheduler=MultiStepParamScheduler([1, 0.5], milestones=[4], num_updates=6))
    trainer.register_hooks([halved])
    checkpointer.resume()
    assert trainer.iter + 1 == 2  # 20 images are two batches of 8
    rates, step = [], trainer.run_step
    trainer.run_step = lambda: (rates.append((trainer.iter, trainer.optimizer.param_groups[0]["lr"])), step())
    trainer.train(2, 6)
    assert rates == [(2, 0.2), (3, 0.2), (4, 0.1), (5, 0.1)]
    assert read_torch_file(tmp_path / "model_final.pth")["trainer"]["batch_size"] == 8


def test_what_earlier_parts_of_a_run_left_counts_as_well(tmp_path):
    for _ in range(3):
        trainer, checkpointer, periodic = noisy_trainer(tmp_path, 3)
        periodic.period = 1
        if last_file(tmp_path):
            checkpointer.resume()
        start = trainer.iter + 1 if last_file(tmp_path) else 0
        trainer.train(start, start + 2)
    assert sorted(path.name for path in tmp_path.glob("model_0*.pth")) == ["model_0000004.pth", "model_0000005.pth"]


def test_broken_weights_never_replace_good_ones(tmp_path):
    trainer, checkpointer, _ = noisy_trainer(tmp_path, 3)
    trainer.train(0, 2)
    good = (tmp_path / "model_final.pth").read_bytes()
    for part in (trainer.model, checkpointer.parts["ema"].module):
        with torch.no_grad():
            part.linear.bias.fill_(float("nan"))
        with pytest.raises(UserError, match="after 3 steps .*linear.bias is not finite .*from before are good"):
            checkpointer.save("model_final", iteration=2)
        with torch.no_grad():
            part.linear.bias.fill_(0)
    assert (tmp_path / "model_final.pth").read_bytes() == good


def other_state(folder, change):
    path = folder / "model_final.pth"
    state = read_torch_file(path)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state["model"].update({"linear.weight": torch.zeros(2, 3)}), r"is \(2, 3\) in .* and \(1, 3\)"),
        (lambda state: state["model"].pop("linear.bias"), "linear.bias is absent in the file"),
        (lambda state: state["model"].update(more=torch.zeros(1)), r"more is \(1,\) in the file and absent"),
        (lambda state: state.pop("ema"), "no averaged weights"),
        (lambda state: state.pop("trainer"), "it has no trainer"),
        (lambda state: state.update(model=None), "holds no detector"),
        (lambda state: state["trainer"].update(iteration=-1), "number of steps is -1"),
        (lambda state: state["trainer"]["optimizer"].update(state={0: {"exp_avg": torch.zeros(9)}}), "does not fit"),
        (lambda state: state["trainer"].pop("optimizer"), "cannot be resumed"),
    ],
)  # fmt: skip
def test_the_state_of_another_run_is_a_sentence(tmp_path, change, words):
    noisy_trainer(tmp_path, 3)[0].train(0, 1)
    other_state(tmp_path, change)
    with pytest.raises(UserError, match=words):
        noisy_trainer(tmp_path, 3)[1].resume()


@pytest.mark.parametrize("text", ["", "gone.pth", "../model_final.pth", "\xff\x00"])
def test_what_last_checkpoint_names_lies_beside_it(tmp_path, text):
    (tmp_path / "last_checkpoint").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="which is not in that folder"):
        last_file(tmp_path)


def test_a_run_that_stopped_early_does_not_go_on(tmp_path):
    trainer = trainer_of([samples(2)] * 10)
    stopping = EarlyStopping("bbox/AP", patience=2)
    stopping.load_state_dict({"best": 5.0, "waited": 2})
    trainer.register_hooks([measured([9.0] * 10), stopping])
    trainer.train(4, 10)
    assert trainer.iter == trainer.max_iter == 4


def test_a_signal_ends_the_last_evaluation_and_no_other():
    for step, expected in ((3, 4), (10, 1)):
        stop = StopOnSignal(lambda done: None)
        stop.trainer, stop.received = SimpleNamespace(iter=step, max_iter=10), signal.SIGTERM
        seen = []
        try:
            seen += Stoppable([1, 2, 3, 4], stop)
        except SystemExit as left:
            assert left.code == 75 and step == 10
        assert len(seen) == (4 if expected == 4 else 0)


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
        ("bbox/AP", 1, 0, "early_stopping.patience=1 needs evaluations in training, but train.eval_period=0"),
        ("bbox/AP", 1, 10, "makes none within 10 iterations"),
        ("bbox/mAP", 0, 5, "'bbox/mAP' is not a metric of the evaluation; choose one of bbox/AP, "),
        ("segm/AP", 0, 5, "'segm/AP' is not a metric"),
        ("bbox/AP-horse", 0, 5, "'bbox/AP-horse' is not a metric"),
        ("bbox/AP-cat", 2, 5, None),
        ("bbox/mAP", 0, 0, None),  # never asked for
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused(metric, patience, period, words):
    evaluator = COCOEvaluator.__new__(COCOEvaluator)
    evaluator._tasks = ("bbox",)
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check_best_metric(metric, patience, period, 10, evaluator, ["cat", "dog"])
