"""Kill a pretraining again and again, resume it each time, and compare its end with that of an undisturbed run.

    python tests/engine/kill_and_resume.py [--steps 40] [--kills 20] [--signals KILL TERM INT] [--num-workers 2] \
        [--images DIR] [--seed 0] [key=value ...]

Saves after every step. Kills come at random moments: while a process starts, within a step, and every other one while a
checkpoint is being written. After each, last.pth must load, whole, and must not have gone back. At the end every tensor
and number of the two last checkpoints must be equal. Exits with a traceback where they are not.

Signals go to the process and its data-loader workers alike, as from a terminal or a scheduler. Imports are paid once:
the runs are forked from this process, which therefore must not touch a GPU itself.
"""

import argparse
import importlib
import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from pretrain.engine.checkpoint import LAST, load_checkpoint
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain
from pretrain.engine.signals import EXIT_STOPPED
from pretrain.engine.trainer import PretrainTrainer
from pretrain.errors import run_main

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "cropfield_tiny.py"
SMALL = (
    "model.backbone.embed_dim=32", "model.backbone.depth=2", "model.backbone.num_heads=2",
    "model.backbone.drop_path_rate=0.2",
    "model.num_prototypes=32", "model.head_hidden_dim=32", "model.bottleneck_dim=16",
    "dataloader.train.batch_size=4", "train.amp.enabled=False", "train.device=cpu",
)  # fmt: skip
PATIENCE = 120.0  # seconds for any one thing to happen


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signals", nargs="+", default=["KILL"], choices=["KILL", "TERM", "INT"], help="in turn")
    parser.add_argument("--num-workers", type=int, default=0, help="of the data loader")
    parser.add_argument("--images", type=Path, metavar="DIR", help="default: noise")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--verbose", action="store_true", help="show what the runs say")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="default: a very small model")
    return parser.parse_intermixed_args(argv)


def import_early() -> None:
    """What a run imports only when it needs it, so that not every fork has to."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looks for GPUs without touching them
    load_config(CONFIG, ["train.seed=0"])
    importlib.import_module("torch.utils.tensorboard")


def run(overrides: list[str], step, slow_from: int, verbose: bool) -> None:
    """A run, or what is left of it, in a process group of its own; `step` tells how far it is.

    From step `slow_from` on it pauses before steps and inside saves, so that a kill does not come too late.
    """
    os.setsid()
    torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
    if not verbose:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    run_step, replace = PretrainTrainer.run_step, os.replace

    def counted(trainer) -> None:
        step.value = trainer.iter
        if trainer.iter >= slow_from:
            time.sleep(0.05)
        run_step(trainer)

    def slow_replace(draft, path) -> None:
        if step.value >= slow_from:
            time.sleep(0.02)
        replace(draft, path)

    def main() -> None:
        pretrain(load_config(CONFIG, overrides), resume=True)

    PretrainTrainer.run_step, os.replace = counted, slow_replace
    run_main(main)


class Killer:
    """Starts runs of one output folder, ends them, and looks at what they left. `done`: steps that are saved."""

    def __init__(self, overrides: list[str], output: Path, seed: int = 0, verbose: bool = False):
        self.overrides, self.output, self.verbose = [*overrides, f"train.output_dir={output}"], output, verbose
        self.random = random.Random(seed)
        self.fork = multiprocessing.get_context("fork")
        self.done = self.landed = self.amid_saves = 0

    def start(self, slow_from: int = 1_000_000) -> None:
        self.step = self.fork.Value("i", -1)
        self.process = self.fork.Process(target=run, args=(self.overrides, self.step, slow_from, self.verbose))
        self.process.start()

    def finish(self) -> int:
        """Wait for the process; its exit code."""
        self.process.join(PATIENCE)
        if self.process.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"a run does not end within {PATIENCE:.0f} s")
        return self.process.exitcode

    def run_to_the_end(self) -> dict:
        """Start or resume; the last checkpoint."""
        self.start()
        code = self.finish()
        assert code == 0, f"exit code {code}; --verbose shows why"
        assert not self.drafts(), "the draft of a killed process was not cleaned up"
        return load_checkpoint(self.output / LAST)

    def kill(self, target: int, number: signal.Signals, in_save: bool) -> None:
        """Start or resume, and end it in or soon after step `target`; while it starts, if that was done before."""
        self.start(slow_from=target)
        if target >= self.done:
            self.until(lambda: self.step.value >= target)
            time.sleep(self.random.uniform(0, 0.15))
        else:
            time.sleep(self.random.uniform(0, 1.5))
        if in_save:
            old = self.drafts()
            self.until(lambda: self.drafts() - old)
            time.sleep(self.random.uniform(0, 0.03))
        with suppress(ProcessLookupError):  # it was faster
            os.killpg(self.process.pid, number)
            self.landed += 1
        self.look_at(number, self.finish())

    def until(self, condition) -> None:
        """Return as soon as `condition` holds or the process has ended."""
        end = time.monotonic() + PATIENCE
        while not condition() and self.process.is_alive() and time.monotonic() < end:
            time.sleep(0.0002)

    def drafts(self) -> set[Path]:
        return set(self.output.glob(f".{LAST}.*.partial"))

    def look_at(self, number: signal.Signals, code: int) -> None:
        """The checkpoint, if there is one yet, is whole and not older than before; the process left as it should."""
        step, left = self.step.value, self.drafts()
        self.amid_saves += bool(left)
        if (self.output / LAST).exists():
            done = load_checkpoint(self.output / LAST)["iteration"]
            assert done >= self.done, f"the checkpoint went back from {self.done} steps to {done}"
            self.done = done
        print(
            f"{number.name:7} {f'in step {step}' if step >= 0 else 'at the start'}: exit code {code}, "
            f"{self.done} steps are saved{', a draft is left' if left else ''}",
            flush=True,
        )
        starting = {-number, 128 + signal.SIGINT} if step < 0 else set()
        ended = {-number} if number == signal.SIGKILL else {EXIT_STOPPED}
        assert code in {0} | ended | starting, f"exit code {code}"


def check_equal(a, b, name: str = "state") -> int:
    """The number of tensors compared; AssertionError at the first difference."""
    assert type(a) is type(b), name
    if torch.is_tensor(a):
        assert a.dtype == b.dtype and torch.equal(a, b), f"{name} differs"
        return 1
    if isinstance(a, dict):
        assert a.keys() == b.keys(), name
        return sum(check_equal(a[key], b[key], f"{name}.{key}") for key in a)
    if isinstance(a, list | tuple):
        assert len(a) == len(b), name
        return sum(check_equal(x, y, f"{name}.{i}") for i, (x, y) in enumerate(zip(a, b, strict=True)))
    assert a == b, f"{name}: {a} and {b}"
    return 0


def noise(folder: Path) -> Path:
    """A folder of six pictures."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    return folder


def compare(args: argparse.Namespace, folder: Path) -> str:
    """Both runs, in `folder`; what was found, in a sentence."""
    overrides = [
        f"dataloader.train.source.root={args.images or noise(folder / 'images')}",
        f"dataloader.train.num_workers={args.num_workers}", f"train.max_iter={args.steps}",
        *(args.overrides or SMALL),
    ]  # fmt: skip
    straight = Killer(overrides, folder / "straight", verbose=args.verbose).run_to_the_end()
    killer = Killer([*overrides, "train.checkpointer.period=1"], folder / "killed", args.seed, args.verbose)
    targets = sorted(killer.random.randrange(args.steps) for _ in range(args.kills))
    for i, target in enumerate(targets):
        number = signal.Signals[f"SIG{args.signals[i % len(args.signals)]}"]
        killer.kill(target, number, in_save=i % 2 == 1)
    count = check_equal(straight, killer.run_to_the_end())
    return (
        f"{args.steps} steps straight, and {args.steps} ended {killer.landed} times by {', '.join(args.signals)} "
        f"({killer.amid_saves} left half a checkpoint): {count} tensors equal"
    )


def main() -> None:
    args = parse_args()
    import_early()
    with TemporaryDirectory() as folder:
        print(compare(args, Path(folder)))


if __name__ == "__main__":
    main()
