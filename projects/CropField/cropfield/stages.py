"""A resumable chain of commands: pretrain, export, fine-tune, report."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from threading import Lock
from typing import NotRequired, TypedDict

import msgspec

from pretrain.engine.signals import EXIT_STOPPED, passing_on
from pretrain.errors import UserError
from pretrain.files import sha256_or_none, write_json
from pretrain.outputs import open_output
from pretrain.parent import with_parent

RECORD = "stages.json"
WRITTEN = ("*.log", "result.json", "report.html", "backbone.*")  # by stages, and by those who run them


@dataclass(frozen=True)
class Stage:
    """One command of a chain.

    Args:
        name: short, and unique within the chain.
        command: a Python script of the project and its arguments; must resume if interrupted.
        show: regular expression for output lines to print; all lines go to the stage's log.
        environment: environment variables to set.
        inputs: files that determine its results; once begun, it is not gone on with if one of them has changed.
    """

    name: str
    command: tuple[str, ...]
    show: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()


class Chain:
    """Runs each stage once. `output/stages.json` records command and duration in seconds of each finished stage.

    Args:
        written: glob patterns of what else will be written into `output`, beyond `WRITTEN`; see `open_output`.

    Raises (from `run`):
        UserError: a stage failed, or was started earlier with another command.
        SystemExit: a signal stopped the chain; running stages were signalled, and the next call resumes from what they
            saved.
    """

    def __init__(self, output: Path, *written: str):
        self.output, self.written = output, (*WRITTEN, *written)
        self.record_file = output / RECORD
        self.recording = Lock()  # parallel stages share the record
        self.running: set[subprocess.Popen] = set()
        self.signals: list[int] = []
        self.record = read_record(self.record_file)
        self.names: list[str] = []  # of all stages, in order

    @property
    def seconds(self) -> dict[str, float]:
        """Duration of each finished stage, in seconds."""
        return {name: entry["seconds"] for name, entry in self.record.items() if entry["seconds"] is not None}

    def plan(self, stages: list[Stage]) -> None:
        """Take note of all stages, in order. Raises UserError if one was started with another command."""
        self.names = [stage.name for stage in stages]
        self.check(stages)

    def check(self, stages: list[Stage]) -> None:
        """Raise UserError for stages that were started with another command or with other inputs."""
        for stage in stages:
            begun, fault = self.record.get(stage.name), ""
            if begun and begun["command"] != list(stage.command):
                theirs, ours = Counter(begun["command"]), Counter(stage.command)
                differing = (("with", theirs - ours), ("not", ours - theirs))
                said = [f"{word} {shlex.join(counts.elements())}" for word, counts in differing if counts]
                fault = f"of another command: {', and '.join(said) or 'its words in another order'}"
            elif begun and (changed := [path for path, was in begun.get("inputs", {}).items() if digest(path) != was]):
                fault = f"of before {changed[0]} was changed"
            if fault:
                raise UserError(
                    f"{self.output} holds a {stage.name} stage {fault}; give what was given then, or choose another "
                    "--output"
                )

    def open(self) -> None:
        """Make the output folder, and keep others out of it."""
        open_output(self.output, written=() if self.record else self.written)

    def run(self, *stages: Stage) -> None:
        """Run stages in parallel; return when all are done."""
        self.check(list(stages))
        self.open()
        waiting = [stage for stage in stages if stage.name not in self.seconds]
        for stage in stages:
            if stage not in waiting:
                print(f"== {self.title(stage)}: done already, in {self.seconds[stage.name]:.0f} s", flush=True)
        with passing_on(self._terminate) as self.signals, ThreadPoolExecutor(max(1, len(waiting))) as pool:
            futures = [pool.submit(self._run, stage) for stage in waiting]
            while wait(futures, timeout=1).not_done:  # a signal handled by another thread would not wake this one
                pass
            results = [future.result() for future in futures]
        if self.signals or any(code == EXIT_STOPPED for code, _ in results):
            print("stopped; run the same command again to continue", file=sys.stderr)
            raise SystemExit(EXIT_STOPPED)
        for stage, (code, failure) in zip(waiting, results, strict=True):
            if code:
                raise UserError(
                    f"the {stage.name} stage stopped: {failure}. Its whole output: {self._log(stage)}. "
                    "Run the same command again to continue."
                )

    def title(self, stage: Stage) -> str:
        """The stage's name, and its number if it is one of several planned."""
        if stage.name not in self.names:
            return stage.name
        return f"{stage.name} (stage {self.names.index(stage.name) + 1} of {len(self.names)})"

    def _run(self, stage: Stage) -> tuple[int, str]:
        """Run one stage; returns its exit code, and the reason if it failed, or ""."""
        print(f"== {self.title(stage)}\n$ {shlex.join([sys.executable, *stage.command])}", flush=True)
        self._note(stage, None)
        start, last = time.monotonic(), ""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **with_parent(), **stage.environment}
        with open(self._log(stage), "a") as log:
            process = subprocess.Popen(
                [sys.executable, *stage.command],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment,
            )  # fmt: skip
            self.running.add(process)
            if self.signals:  # received while this stage was starting
                process.terminate()
            try:
                for line in process.stdout:
                    log.write(line)
                    last = line.strip() or last
                    if re.search(stage.show, line):
                        print(f"{stage.name} | {line.rstrip()}", flush=True)
                log.flush()
            except OSError as error:
                process.terminate()
                raise UserError(f"cannot write {log.name}: {error.strerror}; make room, and start again") from error
            finally:
                code = process.wait()
                self.running.remove(process)
        if code:
            return code, last.removeprefix("error: ") or f"exit code {code}"
        self._note(stage, time.monotonic() - start)
        return 0, ""

    def _terminate(self) -> None:
        for process in list(self.running):
            process.terminate()

    def _log(self, stage: Stage) -> Path:
        return self.output / f"{stage.name}.log"

    def _note(self, stage: Stage, seconds: float | None) -> None:
        with self.recording:
            inputs = {str(path): digest(path) for path in stage.inputs}
            self.record[stage.name] = {"command": list(stage.command), "seconds": seconds, "inputs": inputs}
            write_json(self.record_file, self.record)


def read_result(file: Path, *keys: str | int):
    """What a finished stage has written, or what is there under `keys`. Raises UserError if it is gone or damaged."""
    try:
        return reduce(getitem, keys, json.loads(file.read_text()))
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"{file} is missing or damaged, and {RECORD} says that its stage is done: take the stage's entry out of "
            f"{RECORD} to run it again, or choose another --output"
        ) from None


class Entry(TypedDict):
    """What the record says of a stage. seconds: None until it is done. inputs: digest of each."""

    command: list[str]
    seconds: float | None
    inputs: NotRequired[dict[str, str | None]]


digest = cache(sha256_or_none)  # of an input, read once


def read_record(file: Path) -> dict[str, Entry]:
    """Read the stages' entries by name; {} if the file does not exist. Raises UserError if it is damaged."""
    if not file.exists():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Entry])
    except (OSError, msgspec.DecodeError):
        raise UserError(
            f"{file} is damaged, and says which stages are done: choose another --output, or remove the file, after "
            "which finished stages find their results where they are"
        ) from None
