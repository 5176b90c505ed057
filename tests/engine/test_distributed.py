import functools
import os
import signal
import sys

import numpy as np
import pytest
import torch
import torch.multiprocessing
from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.common.param_scheduler import ConstantParamScheduler

from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.decode import BrokenImage
from pretrain.data.masks import CropMasks
from pretrain.engine.checkpoint import restore_rng, training_state
from pretrain.engine.distributed import seed_rank, start
from pretrain.engine.trainer import PretrainTrainer
from pretrain.errors import UserError
from pretrain.methods.distillation import SelfDistillation
from pretrain.models.vit import VisionTransformer

BATCH, STEPS = 8, 3


class Pictures:
    """Eleven small random pictures, one of which cannot be read: whoever meets it takes the same substitute."""

    def __len__(self):
        return 11

    def name(self, index):
        return f"{index}.jpg"

    def load(self, index, min_pixels=None):
        if index == 6:
            raise BrokenImage("6.jpg", "truncated")
        return np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)


class Recorder(HookBase):
    """Keeps what each step saw, logged and learned."""

    def __init__(self):
        self.seen, self.logged, self.gradients = [], [], []

    def before_train(self):
        self.trainer.optimizer.register_step_pre_hook(self.keep_gradients)

    def keep_gradients(self, *_):
        parameters = self.trainer.model.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in parameters if p.grad is not None})

    def after_step(self):
        self.seen.append({name: self.trainer.batch[name] for name in ("index", "global_boxes", "content_masks")})
        names = ("total_loss", "loss_koleo", "loss_position", "grad_norm/backbone", "images")
        latest = self.trainer.storage.latest()
        self.logged.append({name: latest[name][0] for name in names if name in latest})


def train(accumulate=1, learning_rate=0.2, method=SelfDistillation, **changes):
    """A few steps on this rank, as one process or as one of several. -> the `Recorder`'s lists, the training state"""
    torch.manual_seed(0)
    backbone = VisionTransformer(patch_size=8, embed_dim=32, depth=2, num_heads=2, field_size=6, layer_scale=1.0)
    options = dict(num_prototypes=64, head_hidden_dim=32, bottleneck_dim=16, koleo_weight=0.5)
    model = method(backbone, ConstantParamScheduler(0.8), STEPS, **{**options, **changes})
    loader = CropLoader(Pictures(), MultiCrop(32, local_size=16, num_local=3), CropMasks((4, 4)), BATCH)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], learning_rate, momentum=0.9)
    trainer = PretrainTrainer(model, loader, optimizer, amp=False, clip_grad=1.0, accumulate=accumulate)
    recorder = Recorder()
    trainer.register_hooks([recorder])
    trainer.train(0, STEPS)
    return recorder.seen, recorder.logged, recorder.gradients, training_state(model, optimizer, STEPS)


close = functools.partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
def test_two_processes_learn_what_one_learns(on_ranks, centering):
    """Batch 8 against 4 on each of two ranks: samples, logged losses, gradients, and the state after some steps."""
    seen, logged, gradients, state = train(centering=centering)
    ranks = on_ranks(lambda: train(centering=centering))
    for step, whole in enumerate(seen):
        for name, value in whole.items():
            views = [rank[0][step][name].unflatten(0, (-1, BATCH // 2)) for rank in ranks]
            assert torch.equal(torch.cat(views, dim=1).flatten(0, 1), value), name
    for rank in ranks:
        close(rank[1], logged)
        close(rank[2], gradients)
        assert all(torch.equal(a, ranks[0][3]["model"][name]) for name, a in rank[3]["model"].items())
    close(ranks[0][3]["model"], state["model"])
    close(ranks[0][3]["optimizer"]["state"], state["optimizer"]["state"])
    assert ranks[0][3]["model"].keys() == state["model"].keys()
    assert len(ranks[0][3]["rng"]) == 2 and len(state["rng"]) == 1
    assert logged[-1]["images"] == BATCH


def test_accumulated_parts_add_up_where_no_term_couples_the_batch(on_ranks):
    seen, logged, gradients, state = train(koleo_weight=0)
    parts = [train(accumulate=2, koleo_weight=0), *on_ranks(lambda: train(accumulate=2, koleo_weight=0))]
    for part in parts:
        close(part[1], logged)
        close(part[2], gradients)
        close(part[3]["model"], state["model"])
    assert torch.equal(parts[0][0][0]["index"], seen[0]["index"][BATCH // 2 :])
    assert torch.equal(parts[1][0][0]["index"], seen[0]["index"][BATCH // 4 : BATCH // 2])


def test_koleo_looks_for_neighbours_in_one_part_only():
    assert train(accumulate=2)[1][0]["loss_koleo"] < train()[1][0]["loss_koleo"]
    with pytest.raises(UserError, match="lower train.accumulate"):
        train(accumulate=8)
    with pytest.raises(UserError, match="batch_size 8 does not divide by 1 processes x train.accumulate 3"):
        train(accumulate=3)


class Diverging(SelfDistillation):
    """On the second rank the second step's loss is not a number."""

    def forward(self, batch, step):
        losses = super().forward(batch, step)
        bad = step == 1 and comm.get_rank() == 1
        return {name: loss * float("nan") if bad else loss for name, loss in losses.items()}


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(on_ranks):
    def message():
        with pytest.raises(UserError, match="step 1: the loss is not finite") as error:
            train(method=Diverging)
        return str(error.value)

    seen = train(learning_rate=0.0)[0][1]["index"].tolist()
    first, second = on_ranks(message)
    assert first == second and first.endswith(": " + ", ".join(f"{index}.jpg" for index in seen[4:]))


def test_random_numbers_differ_by_rank_and_go_on_where_they_were(on_ranks):
    def draws():
        seed_rank(0)
        torch.rand(3)
        states = comm.all_gather({"cpu": torch.get_rng_state()})
        expected = torch.rand(3)
        restore_rng(states, 7)
        assert torch.equal(torch.rand(3), expected)
        restore_rng(states[:1], 7)  # saved by another number of processes
        anew = torch.rand(3)
        seed_rank(0)
        restore_rng(states[:1], 7)
        assert torch.equal(torch.rand(3), anew)
        return expected, anew

    first, second = on_ranks(draws)
    assert len({tuple(row.tolist()) for row in (*first, *second)}) == 4


def be(rank_0, rank_1):
    (rank_0, rank_1)[comm.get_rank()]()


def wait_for_a_signal():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    comm.synchronize()
    if comm.is_main_process():
        os.kill(os.getppid(), signal.SIGTERM)
    while True:
        signal.pause()


def complain():
    raise UserError("the disk is full")


@pytest.mark.parametrize(
    "rank_0,rank_1,error,code",
    [
        (comm.get_rank, complain, UserError, "the disk is full"),
        (comm.get_rank, lambda: sys.exit(75), SystemExit, "75"),
        (comm.get_rank, lambda: os.kill(os.getpid(), signal.SIGKILL), UserError, "SIGKILL.*out of memory"),
        (wait_for_a_signal, wait_for_a_signal, SystemExit, "75"),
    ],
    ids=["user error", "exit code", "killed", "terminated"],
)
def test_how_a_process_ends_is_how_the_run_ends(rank_0, rank_1, error, code, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("forks this process, which CUDA does not survive")
    forked = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
    monkeypatch.setattr(torch.multiprocessing, "start_processes", forked)
    with pytest.raises(error, match=code):
        start(be, (rank_0, rank_1), num_processes=2)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_numbers_that_make_no_run_are_refused(monkeypatch):
    for numbers, sentence in {
        (0, 1, 0, "auto"): "count from 1",
        (1, 2, 2, "tcp://localhost:1"): "machine ranks from 0",
        (1, 2, 0, "auto"): "add --dist-url",
        (2, 1, 0, "foo"): "'foo' is not tcp://HOST:PORT",
        (2, 1, 0, "tcp://localhost"): "is not tcp://HOST:PORT",
        (2, 1, 0, "tcp://localhost:0"): "is not tcp://HOST:PORT",
        (2, 1, 0, "tcp://localhost:99999"): "is not tcp://HOST:PORT",
        (2, 1, 0, "http://localhost:80"): "is not tcp://HOST:PORT",
        (2, 1, 0, "tcp://nowhere.invalid:80"): "there is no host nowhere.invalid",
    }.items():
        with pytest.raises(UserError, match=sentence):
            start(print, (), *numbers)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="--num-gpus 2: this machine has 1"):
        start(print, (), 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "here")
    with pytest.raises(UserError, match="torchrun starts the processes"):
        start(print, (), 2)
