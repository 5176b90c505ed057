"""A chain of commands that remembers what it has done: pretrain, export, fine-tune, report."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from pretrain.errors import UserError
from pretrain.files import replacing

RECORD = "stages.json"


@dataclass(frozen=True)
class Stage:
    """One command of a chain.

    Args:
        name: short and unique within the chain.
        command: a Python script of the project and its arguments. It must go on where it was interrupted.
        show: pattern of the output lines worth showing; all lines go to the stage's log.
        environment: variables to set for it.
    """

    name: str
    command: tuple[str, ...]
    show: str = ""
    environment: dict[str, str] = field(default_factory=dict)


class Chain:
    """Runs stages once each. `output/stages.json` says which are done, with which command and in how many seconds.

    Raises (from `run`):
        UserError: a stage failed, or was begun earlier with another command.
    """

    def __init__(self, output: Path):
        self.output = output
        self.record_file = output / RECORD
        self.recording = Lock()  # stages side by side share the record
        self.record = json.loads(self.record_file.read_text()) if self.record_file.exists() else {}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each finished stage took."""
        return {name: entry["seconds"] for name, entry in self.record.items() if entry["seconds"] is not None}

    def check(self, stages: list[Stage]) -> None:
        """Refuse, before any work, stages that were begun with another command."""
        for stage in stages:
            begun = self.record.get(stage.name)
            if begun and begun["command"] != list(stage.command):
                raise UserError(
                    f"{self.output} holds a {stage.name} stage of another command ({shlex.join(begun['command'])}); "
                    "choose another --output, or remove that folder"
                )

    def run(self, *stages: Stage) -> None:
        """Run stages side by side; return when all are done."""
        self.check(list(stages))
        waiting = [stage for stage in stages if stage.name not in self.seconds]
        for stage in stages:
            if stage not in waiting:
                print(f"== {stage.name}: done already, in {self.seconds[stage.name]:.0f} s", flush=True)
        with ThreadPoolExecutor(max_workers=max(1, len(waiting))) as pool:
            failures = list(pool.map(self._run, waiting))
        for stage, failure in zip(waiting, failures, strict=True):
            if failure:
                raise UserError(
                    f"the {stage.name} stage stopped: {failure}. Its whole output: {self._log(stage)}. "
                    "The same call again goes on from here."
                )

    def _run(self, stage: Stage) -> str:
        """Run one stage; returns why it failed, or ""."""
        print(f"== {stage.name}\n$ python {shlex.join(stage.command)}", flush=True)
        self._note(stage, None)
        start, last = time.monotonic(), ""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment}
        with open(self._log(stage), "a") as log:
            process = subprocess.Popen(
                [sys.executable, *stage.command],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment,
            )  # fmt: skip
            for line in process.stdout:
                log.write(line)
                last = line.strip() or last
                if re.search(stage.show, line):
                    print(f"{stage.name} | {line.rstrip()}", flush=True)
        if process.wait():
            return last.removeprefix("error: ") or f"exit code {process.returncode}"
        self._note(stage, time.monotonic() - start)
        return ""

    def _log(self, stage: Stage) -> Path:
        return self.output / f"{stage.name}.log"

    def _note(self, stage: Stage, seconds: float | None) -> None:
        with self.recording, replacing(self.record_file) as draft:
            self.record[stage.name] = {"command": list(stage.command), "seconds": seconds}
            draft.write_text(json.dumps(self.record, indent=2) + "\n")
