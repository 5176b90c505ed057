"""Mutation testing, `make mutate`: break the code in one place, and see whether the tests beside it notice.

Mutants are those of `handmade.toml` and a seeded sample of all. Each is tried in a copy of the tree, in a fork of this
process, which has imported torch already. Results are kept in `outputs/mutation`: the next call runs what is missing,
and again what survived. Mutants that no test could notice stand in `equivalent.toml` and are not run.
"""

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from operators import broken, places

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
RESULTS = ROOT / "outputs/mutation/results.jsonl"
MODULES = (
    "pretrain/methods/*.py", "pretrain/models/*.py",
    *(f"pretrain/data/{name}.py" for name in ("crops", "masks", "batches")),
    *(f"pretrain/engine/{name}.py" for name in ("schedules", "param_groups")),
    *(f"projects/CropField/cropfield/{name}.py" for name in ("backbone", "config", "weights")),
    "projects/StoP/stop/*.py",
)  # fmt: skip
WHOLE_FOLDERS = ("methods", "models", "stop")  # their modules are tested together
FURTHER_TESTS = {
    "weights.py": ["tests/cropfield/test_weights.py"],
    "backbone.py": ["tests/lab/semantic/test_segmentor.py"],  # of the backbone without a pyramid
}
PRELOADED = "torchvision timm cv2 torch._dynamo detectron2.engine detectron2.modeling detectron2.config".split()
KEY = ("file", "where", "old", "new")
SURVIVED = {"outcome": "survived"}


def key_of(mutant: dict) -> tuple[str, ...]:
    return tuple(mutant[name] for name in KEY)


def read(name: str) -> list[dict]:
    return tomllib.loads((HERE / name).read_text())["mutant"]


def handmade() -> list[dict]:
    found = []
    for entry in read("handmade.toml"):
        source, old = (ROOT / entry["file"]).read_text(), entry["old"]
        if (times := source.count(old)) != 1:
            sys.exit(f"handmade.toml: {old!r} is {times} times in {entry['file']} and not once; repair the entry")
        found.append(entry | {"where": "by hand", "code": source.replace(old, entry["new"])})
    return found


def sample(count: int, seed: int) -> list[dict]:
    """The places whose hashes are lowest: a change of the code changes few of them."""
    drawn = []
    for path in (path for pattern in MODULES for path in ROOT.glob(pattern)):
        file = str(path.relative_to(ROOT))
        for *place, occurrence in places(path.read_text()):
            digest = hashlib.sha256(repr((seed, file, *place)).encode()).hexdigest()
            drawn.append((digest, file, place[2], occurrence))
    return [
        broken((ROOT / file).read_text(), operator, occurrence) | {"file": file, "tests": tests_of(file)}
        for _, file, operator, occurrence in sorted(drawn)[:count]
    ]


def tests_of(file: str) -> list[str]:
    """The test file beside the module, and after it the rest of its folder where modules are tested together."""
    folder, name = Path(file).parts[-2:]
    own = [test for test in [f"tests/{folder}/test_{name}"] if (ROOT / test).exists()]
    return own + FURTHER_TESTS.get(name, []) + [f"tests/{folder}"] * (folder in WHOLE_FOLDERS)


def run_tests(tree: Path, tests: list[str], limit: float) -> dict:
    """-> `outcome` ("survived", "killed" or "timeout"), `seconds`, and `by` which test."""
    log, start = tree / "pytest.log", time.time()
    if not (child := os.fork()):
        _be_pytest(tree, tests, log)
    try:
        while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) and time.time() - start < limit:
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # the processes that tests started too
        status = os.waitpid(child, 0)[1]
    outcome = "timeout" if time.time() - start >= limit else "killed" if status else "survived"
    lines = [line for line in log.read_text().splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    return {"outcome": outcome, "seconds": round(time.time() - start, 1), "by": lines[-1][:200] if lines else ""}


def _be_pytest(tree: Path, tests: list[str], log: Path) -> None:
    os.setsid()
    os.chdir(tree)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    sys.path[:0] = places = [str(tree), *(str(tree / "projects" / name) for name in ("CropField", "StoP", "Lab"))]
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    code = 1
    try:
        for test in tests:  # one by one: pytest would drop a file that is in a folder
            if code := pytest.main(["-x", "--tb=line", "-rfE", "-p", "no:cacheprovider", test]):
                break
    finally:
        sys.stdout.flush()
        os._exit(code)


def report(wanted: list[dict], results: dict) -> None:
    table = {}
    for mutant in wanted:
        result = results.get(key_of(mutant))
        group = "by hand" if mutant["where"] == "by hand" else mutant["file"]
        table.setdefault(group, Counter())[result["outcome"] if result else "not run"] += 1
        if result and result["outcome"] == "survived":
            print(f"\nsurvived: {mutant['file']}, {mutant['where']}\n- {mutant['old']}\n+ {mutant['new']}")
    columns = ("killed", "timeout", "survived", "equivalent", "not run")
    table["all of the sample"] = sum((counts for group, counts in table.items() if group != "by hand"), Counter())
    print("\n" + " " * 45 + "".join(f"{column:>11}" for column in columns))
    for group, counts in table.items():
        print(f"{group:45}" + "".join(f"{counts[column]:11}" for column in columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="mutants in the sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files whose path has this part")
    parser.add_argument("--report", action="store_true", help="show what is known and run nothing")
    args = parser.parse_args()
    equivalent = {key_of(entry): {"outcome": "equivalent"} for entry in read("equivalent.toml")}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.touch()
    known = (json.loads(line) for line in RESULTS.read_text().splitlines())
    results = {key_of(result): result for result in known} | equivalent
    wanted = [m for m in handmade() + sample(args.count, args.seed) if args.only in m["file"]]
    if not args.report:
        run_all(wanted, results)
    report(wanted, results)
    sys.exit(any(results.get(key_of(mutant), {}).get("outcome") == "survived" for mutant in wanted))


def run_all(wanted: list[dict], results: dict) -> None:
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"  # two mutants may have one size and time
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # hydra's takes a second
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else a fork's first collection would copy all of it
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder)
        for name in ("pretrain", "projects", "tests", "configs", "tools"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        todo = [m for m in wanted if results.get(key_of(m), SURVIVED)["outcome"] == "survived"]
        todo.sort(key=lambda mutant: key_of(mutant) in results)  # what was not tried comes first
        for number, mutant in enumerate(todo, 1):
            for test in mutant["tests"]:
                seconds[test] = seconds.get(test) or green(tree, test)
            path = tree / mutant["file"]
            sound = path.read_text()
            path.write_text(mutant["code"])
            result = run_tests(tree, mutant["tests"], 30 + 5 * sum(seconds[test] for test in mutant["tests"]))
            path.write_text(sound)
            results[key_of(mutant)] = result = {name: mutant[name] for name in KEY} | result
            with RESULTS.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(f"{number}/{len(todo)}", *(result[name] for name in ("outcome", "file", "by")), flush=True)


def green(tree: Path, test: str) -> float:
    """Seconds that a test file or folder takes while nothing is broken."""
    result = run_tests(tree, [test], 600)
    if result["outcome"] != "survived":
        sys.exit(f"{test} is red before anything was broken ({result['by']}); repair it first")
    return result["seconds"]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copy goes, too
    main()
