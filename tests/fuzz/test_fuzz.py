"""A few hundred inputs of the fuzzer, the same each time; `run.py` tries any number."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import mutations
import numpy as np
import pytest
from harness import Wrong, generator, try_inputs
from mutations import mutate_bytes, mutate_tree
from run import table

from pretrain.errors import UserError

KINDS = ("images", "coco", "weights", "shards", "lists", "predict")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_inputs_end_well(tmp_path):
    """In a process of its own: hotcoco's threads, once started here, would not be in a fork."""
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("run.py"), "--only", *KINDS, "--inputs", "150"]
    ended = subprocess.run([*command, "--output", tmp_path], capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    rows = [line.split() for line in ended.stdout.splitlines() if line.split()[:1] and line.split()[0] in KINDS]
    assert len(rows) == len(KINDS) and all(int(right) and int(refused) for _, _, right, refused, *_ in rows)


def test_what_is_nested_again_and_again_can_still_be_copied_and_written(monkeypatch):
    monkeypatch.setattr("mutations.pick", lambda rng, options: options[-1])
    holder = [{"x": 1}]
    for _ in range(3):  # the changes of an input
        mutations._nest(holder, 0, np.random.default_rng(0), holder, ())
    assert json.loads(json.dumps(copy.deepcopy(holder))) == holder


def hostile(rng, folder):
    """An input for each outcome, by its number."""
    (folder / "input.txt").write_text("x")
    number = int(folder.name.rpartition("-")[2])
    if number == 1:
        raise UserError("input.txt is bad; replace it")
    if number == 2:
        raise ValueError("of the code")
    if number == 3:
        time.sleep(60)
    if number == 4:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 5:
        np.ones(2**29)
    if number == 6:
        raise Wrong("other pixels")
    if number == 7:
        raise UserError("something is bad")
    if number == 8:
        raise UserError("input.txt is bad\nand long")


def test_each_outcome_is_told(tmp_path):
    results = []
    for seeds, seconds in ((range(3), 60), ([3], 1), (range(4, 10), 60)):  # a busy machine is slow to tell the others
        module = SimpleNamespace(attempt=hostile, SECONDS=seconds, MEMORY=2**28)
        results += try_inputs("kind", module, seeds, tmp_path)
    outcomes = "right refused traceback hang crash memory wrong wrong refused right".split()
    assert [result.outcome for result in results] == outcomes and [result.seed for result in results] == list(range(10))
    assert (tmp_path / "kind-4/input.txt").exists() and not (tmp_path / "kind-0").exists()
    assert "hostile" in results[3].message and "exit -11" in results[4].message


def test_a_seed_gives_the_same_input(tmp_path):
    for name in KINDS:
        assert generator(name, 5).random() == generator(name, 5).random() != generator(name, 6).random()
    tree, data = {"a": [{"b": 1}, {"b": 2}], "c": "x"}, bytes(range(200))
    trees = {str(mutate_tree(tree, generator("x", seed))) for seed in range(200)}
    assert len(trees) > 100 and tree == {"a": [{"b": 1}, {"b": 2}], "c": "x"}
    assert mutate_bytes(data, generator("x", 3)) == mutate_bytes(data, generator("x", 3)) != data


def test_the_table_adds_up():
    counts = {"a": Counter(right=2, crash=1), "b": Counter(wrong=3)}
    assert table(counts).splitlines()[-1].split() == ["all", "6", "2", "0", "0", "0", "1", "0", "3"]
