"""Tries inputs of one kind, each in a child process that may hang or die, and says what became of each.

A kind is a module kind_NAME.py with

    attempt(rng, folder)   writes an input below `folder`, an empty folder, and hands it to the code under attack. It
                           returns when the result was right, raises `Wrong` when it was not, and lets through what
                           the code raises.

and may have REFUSED (what a refusal raises; UserError), SECONDS and MEMORY (limits of one input), SHARE (of all).
"""

import contextlib
import faulthandler
import importlib
import json
import logging
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch

from pretrain.errors import UserError

OUTCOMES = ("right", "refused", "traceback", "hang", "crash", "memory", "wrong")
GOOD = OUTCOMES[:2]
SECONDS, MEMORY = 20, 2**31  # of one input: hang beyond it, memory blow-up beyond it
LONGEST = 700  # characters of a sentence


class Wrong(Exception):
    """What was accepted has a wrong result."""


@dataclass
class Result:
    kind: str
    seed: int
    outcome: str
    message: str


def kinds() -> dict[str, ModuleType]:
    names = sorted(path.stem for path in Path(__file__).parent.glob("kind_*.py"))
    return {name.removeprefix("kind_"): importlib.import_module(name) for name in names}


def generator(kind: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(kind.encode()), seed])


def try_inputs(kind: str, module: ModuleType, seeds: Sequence[int], folder: Path) -> Iterator[Result]:
    """Results in the order of `seeds`. What did not go well leaves its input in `folder`/KIND-SEED."""
    seeds = list(seeds)
    while seeds:
        done = 0
        for result in _one_child(kind, module, seeds, folder):
            yield result
            done += 1
        seeds = seeds[done:]


def _one_child(kind: str, module: ModuleType, seeds: list[int], folder: Path) -> Iterator[Result]:
    """Results until the child ends; its last is its death where it died."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child, log = os.fork(), folder / f"{kind}.log"
    if not child:
        os.close(reader)
        _work(kind, module, seeds, folder, writer, log)
    os.close(writer)
    seconds, done, hung = getattr(module, "SECONDS", SECONDS), 0, False
    with open(reader) as lines:
        while done < len(seeds):
            hung = not select.select([lines], [], [], seconds)[0]
            line = "" if hung else lines.readline()
            if not line:
                break
            yield Result(**json.loads(line))
            done += 1
    with contextlib.suppress(ProcessLookupError):
        if hung:
            os.kill(child, signal.SIGUSR1)
            time.sleep(1)
        os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if done < len(seeds):
        place = log.read_text(errors="replace").strip()
        how = f"over {seconds} s" if hung else f"exit {status}"
        yield Result(kind, seeds[done], "hang" if hung else "crash", f"{how}\n{place}")


def _work(kind: str, module: ModuleType, seeds: list[int], folder: Path, writer: int, log: Path) -> None:
    """The child. It never returns."""
    os.setsid()
    logging.disable()
    cv2.setNumThreads(0)  # of the parent's threads none is here
    torch.set_num_threads(1)
    with open(log, "w") as stacks, open(writer, "w", buffering=1) as results:
        faulthandler.enable(stacks)
        faulthandler.register(signal.SIGUSR1, stacks)  # the parent asks where it hangs
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        memory = getattr(module, "MEMORY", MEMORY)
        limit = _status("VmSize") + 2 * memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for seed in seeds:
            place = folder / f"{kind}-{seed}"
            result = try_input(kind, module, seed, place, memory)
            if result.outcome in GOOD:
                shutil.rmtree(place, ignore_errors=True)
            results.write(json.dumps(asdict(result)) + "\n")
    os._exit(0)


def try_input(kind: str, module: ModuleType, seed: int, place: Path, memory: int) -> Result:
    """In this process."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    os.chdir(place)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    try:
        module.attempt(generator(kind, seed), place)
        outcome, message = "right", ""
    except getattr(module, "REFUSED", UserError) as error:
        message = str(error)
        fault = fault_of_sentence(message, place)
        outcome, message = ("wrong", f"{fault}: {message!r}") if fault else ("refused", message)
    except Wrong as error:
        outcome, message = "wrong", str(error)
    except MemoryError:
        outcome, message = "memory", traceback.format_exc(limit=-4)
    except BaseException:
        outcome, message = "traceback", traceback.format_exc(limit=-6)
    grown = _status("VmHWM") - before
    if grown > memory and outcome in GOOD:
        outcome, message = "memory", f"{grown / 2**20:.0f} MiB; {message}"
    return Result(kind, seed, outcome, message)


def fault_of_sentence(message: str, folder: Path) -> str:
    """What is wrong with a refusal, or ""."""
    if not message.isprintable():
        return "a sentence of several lines, or with control characters"
    if not 0 < len(message) < LONGEST + len(str(folder)):
        return "a sentence too long"
    names = [str(folder), *(name.encode(errors="backslashreplace").decode() for name in os.listdir(folder))]
    return "" if any(name in message for name in names) else "a sentence that names no file"


def _status(name: str) -> int:
    """A figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
