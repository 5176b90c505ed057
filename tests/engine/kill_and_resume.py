"""Kill a run again and again, resume it each time, and compare its end with that of an undisturbed one.

    python tests/engine/kill_and_resume.py [--what pretrain|detector|pipeline] [--steps 40] [--kills 20] \
        [--signals KILL TERM INT] [--num-workers 2] [--images DIR] [--seed 0] [key=value ...]

Saves after every step. Kills come at random moments: while a process starts, within a step, and every other one while a
checkpoint is being written. After each, the last checkpoint must load, whole, and must not have gone back. At the end
every tensor and number of the last checkpoints must be equal, every file whole, and no draft left. Exits with a
traceback where they are not.

Signals go to the process and its data-loader workers alike, as from a terminal or a scheduler. Imports are paid once:
the runs are forked from this process, which therefore must not touch a GPU itself. The pipeline's stages are processes
of their own, in their own time: there the moments are random in time, and half of the SIGKILLs are for it alone.
"""

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import yaml
from PIL import Image

from cropfield.checkpoint import last_file
from cropfield.trainer import DetectionTrainer
from pretrain.engine.checkpoint import LAST, load_checkpoint
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain
from pretrain.engine.signals import EXIT_STOPPED
from pretrain.engine.trainer import PretrainTrainer
from pretrain.errors import run_main
from pretrain.files import read_tensors, read_torch_file

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "pretrain" / "cropfield_tiny.py"
SMALL = (
    "model.backbone.embed_dim=32", "model.backbone.depth=2", "model.backbone.num_heads=2",
    "model.backbone.drop_path_rate=0.2",
    "model.num_prototypes=32", "model.head_hidden_dim=32", "model.bottleneck_dim=16",
    "dataloader.train.batch_size=4", "train.amp.enabled=False", "train.device=cpu",
)  # fmt: skip
SMALL_DETECTOR = (
    "model.backbone.net.depth=1", "model.backbone.net.drop_path_rate=0.2", "dataloader.train.total_batch_size=2",
    "model.roi_heads.box_predictor.test_score_thresh=0.0", "train.ema.enabled=True", "train.device=cpu",
)  # fmt: skip
SMALL_PIPELINE = (
    "pretrain.dataloader.train.batch_size=4", "pretrain.train.device=cpu",
    *(f"{half}.{net}={value}" for half, net in (("pretrain", "model.backbone"), ("detect", "model.backbone.net"))
      for net, value in ((f"{net}.depth", 1), (f"{net}.embed_dim", 48))),
    "pretrain.model.num_prototypes=32",
    *(f"detect.{override}" for override in SMALL_DETECTOR if "depth" not in override),
)  # fmt: skip
PATIENCE = 600.0  # seconds for any one thing to happen; a whole pipeline, on a busy machine


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=KINDS, default="pretrain")
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
    for name in ("torch.utils.tensorboard", "cropfield.checks", "cropfield.run"):
        importlib.import_module(name)


def tool(name: str):
    """tools/NAME.py as a module."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


class Pretraining:
    """What is killed: how to run it, and what it leaves. `drafts` are looked for in `folders` of the output."""

    small, folders, trainer = SMALL, (".",), PretrainTrainer

    def overrides(self, data: Path, steps: int, num_workers: int) -> list[str]:
        return [
            f"dataloader.train.source.root={data}", f"dataloader.train.num_workers={num_workers}",
            f"train.max_iter={steps}",
        ]  # fmt: skip

    killed = ("train.checkpointer.period=1",)  # overrides of the run that is killed

    def main(self, overrides: list[str], output: Path) -> None:
        pretrain(load_config(CONFIG, [*overrides, f"train.output_dir={output}"]), resume=True)

    def done(self, output: Path) -> int:
        """Steps in the last checkpoint, which is loaded; 0 where there is none."""
        return load_checkpoint(output / LAST)["iteration"] if (output / LAST).exists() else 0

    def end(self, output: Path):
        """What two runs that ended must have in common."""
        return load_checkpoint(output / LAST)


class Detector(Pretraining):
    """A detector of labels.json beside the images; the average of its weights is compared as well."""

    small, folders, trainer = SMALL_DETECTOR, (".", "inference"), DetectionTrainer

    def overrides(self, data: Path, steps: int, num_workers: int) -> list[str]:
        sets = [f"dataset.{p}_{k}" for p in ("train", "val") for k in (f"json={data}/labels.json", f"images={data}")]
        loaders = [f"dataloader.{part}.num_workers={num_workers}" for part in ("train", "test")]
        return [*sets, *loaders, f"train.max_iter={steps}", "train.seed=3"]

    def main(self, overrides: list[str], output: Path) -> None:
        config = str(ROOT / "configs" / "COCO" / "mask_rcnn_cropfield_tiny.py")
        sys.argv = ["train", "--resume", "--config-file", config, *overrides, f"train.output_dir={output}"]
        tool("lazyconfig_train_net").main()

    def done(self, output: Path) -> int:
        path = last_file(output)
        return read_torch_file(path)["trainer"]["iteration"] + 1 if path else 0

    def end(self, output: Path):
        weights = {name: read_torch_file(output / f"model_{name}.pth") for name in ("final", "ema")}
        return weights | {"result": json.loads((output / "result.json").read_text())}


class Pipeline(Pretraining):
    """tools/pretrain_then_detect.py with stages that are processes of their own."""

    small, folders = SMALL_PIPELINE, (".", "pretrain", "detect", "detect/inference")
    killed = ("pretrain.train.checkpointer.period=1", "detect.train.checkpointer.period=1")

    def overrides(self, data: Path, steps: int, num_workers: int) -> list[str]:
        halves = Pretraining.overrides(self, data, steps, num_workers)[1:], Detector.overrides(self, data, steps, 0)[4:]
        return [str(data), *(f"pretrain.{o}" for o in halves[0]), *(f"detect.{o}" for o in halves[1])]

    def main(self, overrides: list[str], output: Path) -> None:
        data, *overrides = overrides
        sets = [w for p in ("train", "val") for w in (f"--{p}-json", f"{data}/labels.json", f"--{p}-images", data)]
        sys.argv = ["pipeline", "--images", data, *sets, "--output", str(output), *overrides]
        tool("pretrain_then_detect").main()

    def done(self, output: Path) -> int:
        return Pretraining.done(self, output / "pretrain") + Detector.done(self, output / "detect")

    def end(self, output: Path):
        backbone = read_tensors(output / "backbone.safetensors")
        return Pretraining.end(self, output / "pretrain"), backbone, Detector.end(self, output / "detect")


KINDS = {"pretrain": Pretraining(), "detector": Detector(), "pipeline": Pipeline()}


def run(kind: Pretraining, overrides: list[str], output: Path, step, slow_from: int, verbose: bool) -> None:
    """A run, or what is left of it, in a process group of its own; `step` tells how far it is.

    From step `slow_from` on it pauses before steps and inside saves, so that a kill does not come too late.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background has switched off
    os.setsid()
    torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
    if not verbose:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    run_step, replace = kind.trainer.run_step, os.replace

    def counted(trainer) -> None:
        step.value = trainer.iter
        if trainer.iter >= slow_from:
            time.sleep(0.05)
        run_step(trainer)

    def slow_replace(draft, path) -> None:
        if step.value >= slow_from:
            time.sleep(0.02)
        replace(draft, path)

    kind.trainer.run_step, os.replace = counted, slow_replace

    def main() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)  # a Ctrl-C that came before is told as one that comes now
        kind.main(overrides, output)

    run_main(main)


class Killer:
    """Starts runs of one output folder, ends them, and looks at what they left. `done`: steps that are saved."""

    def __init__(
        self, overrides: list[str], output: Path, seed: int = 0, verbose: bool = False, kind=KINDS["pretrain"]
    ):
        self.overrides, self.output, self.verbose, self.kind = overrides, output, verbose, kind
        self.random = random.Random(seed)
        self.fork = multiprocessing.get_context("fork")
        self.done = self.landed = self.amid_saves = 0

    def start(self, slow_from: int = 1_000_000) -> None:
        self.step = self.fork.Value("i", -1)
        arguments = (self.kind, self.overrides, self.output, self.step, slow_from, self.verbose)
        self.process = self.fork.Process(target=run, args=arguments)
        self.process.start()
        self.until(lambda: os.getpgid(self.process.pid) == self.process.pid)  # from here on a kill meets it

    def finish(self) -> int:
        """Wait for the process; its exit code."""
        self.process.join(PATIENCE)
        if self.process.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"a run does not end within {PATIENCE:.0f} s")
        return self.process.exitcode

    def run_to_the_end(self):
        """Start or resume; what it ends with. Every file must be whole."""
        self.start()
        code = self.finish()
        assert code == 0, f"exit code {code}; --verbose shows why"
        assert not self.drafts(), "the draft of a killed process was not cleaned up"
        check_whole(self.output)
        return self.kind.end(self.output)

    def kill(self, target: int, number: signal.Signals, in_save: bool) -> None:
        """Start or resume, and end it in or soon after step `target`; while it starts, if that was done before."""
        self.start(slow_from=target)
        if target >= self.done:
            self.until(lambda: self.step.value >= target)
            time.sleep(self.random.uniform(0, 0.15))
        else:
            time.sleep(self.random.uniform(0, 1.5))
        self.end(number, in_save)

    def kill_after(self, seconds: float, number: signal.Signals, in_save: bool, alone: bool) -> None:
        """Start or resume, and end it so many seconds later. alone: not the processes that it has started."""
        self.start()
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)
        self.end(number, in_save, alone)

    def end(self, number: signal.Signals, in_save: bool, alone: bool = False) -> None:
        if in_save:
            old = self.drafts()
            self.until(lambda: self.drafts() - old)
            time.sleep(self.random.uniform(0, 0.03))
        with suppress(ProcessLookupError):  # it was faster
            (os.kill if alone else os.killpg)(self.process.pid, number)
            self.landed += 1
        code = self.finish()
        self.wait_for_group()
        self.look_at(number, code)

    def wait_for_group(self) -> None:
        """Until the processes that it had started have ended as well, as they must by themselves."""
        end = time.monotonic() + PATIENCE
        with suppress(ProcessLookupError):
            while time.monotonic() < end:
                os.killpg(self.process.pid, 0)
                time.sleep(0.05)
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"a stage lives {PATIENCE:.0f} s longer than its pipeline")

    def until(self, condition) -> None:
        """Return as soon as `condition` holds or the process has ended."""
        end = time.monotonic() + PATIENCE
        while not condition() and self.process.is_alive() and time.monotonic() < end:
            time.sleep(0.0002)

    def drafts(self) -> set[Path]:
        return {path for folder in self.kind.folders for path in (self.output / folder).glob(".*.partial")}

    def look_at(self, number: signal.Signals, code: int) -> None:
        """The checkpoint, if there is one yet, is whole and not older than before; the process left as it should."""
        step, left = self.step.value, self.drafts()
        self.amid_saves += any(".pth" in path.name for path in left)
        done = self.kind.done(self.output)
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


def check_whole(output: Path) -> None:
    """Raise where a file of a run that has ended is half written."""
    for path in output.rglob("*.pth"):
        read_torch_file(path)
    for path in output.rglob("*.json"):
        for text in path.read_text().splitlines() if path.name == "metrics.json" else [path.read_text()]:
            json.loads(text)
    for path in output.rglob("*.yaml"):
        assert list(yaml.parse(path.read_text())), path


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
    """A folder of six pictures, and labels.json with an object in each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(6):
        pixels = rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)
        x, y = (int(value) for value in rng.integers(0, 40, 2))
        pixels[y : y + 36, x : x + 40] //= 4
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80})
        outline = [x, y, x + 40, y, x + 40, y + 36, x, y + 36]
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 1 + i % 2, "bbox": [x, y, 40, 36], "area": 1440, "iscrowd": 0}
            | {"segmentation": [outline]}
        )
    categories = [{"id": 1, "name": "dark"}, {"id": 2, "name": "darker"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def compare(args: argparse.Namespace, folder: Path) -> str:
    """Both runs, in `folder`; what was found, in a sentence."""
    kind = KINDS[args.what]
    data = args.images or noise(folder / "images")
    overrides = [*kind.overrides(data, args.steps, args.num_workers), *(args.overrides or kind.small)]
    begun = time.monotonic()
    straight = Killer(overrides, folder / "straight", verbose=args.verbose, kind=kind).run_to_the_end()
    seconds = time.monotonic() - begun
    killer = Killer([*overrides, *kind.killed], folder / "killed", args.seed, args.verbose, kind)
    targets = sorted(killer.random.randrange(args.steps) for _ in range(args.kills))
    for i, target in enumerate(targets):
        number, in_save = signal.Signals[f"SIG{args.signals[i % len(args.signals)]}"], i % 2 == 1
        if args.what == "pipeline":
            alone = number == signal.SIGKILL and i % 4 < 2
            killer.kill_after(killer.random.uniform(0, seconds / 2), number, in_save, alone)
        else:
            killer.kill(target, number, in_save)
    count = check_equal(straight, killer.run_to_the_end())
    return (
        f"{args.what}: {args.steps} steps straight, and {args.steps} ended {killer.landed} times by "
        f"{', '.join(args.signals)} ({killer.amid_saves} left half a checkpoint): {count} tensors equal"
    )


def main() -> None:
    args = parse_args()
    import_early()
    tool("lazyconfig_train_net")
    with TemporaryDirectory() as folder:
        print(compare(args, Path(folder)))


if __name__ == "__main__":
    main()
