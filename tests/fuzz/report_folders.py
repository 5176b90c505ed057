"""Run folders as nobody's tool writes them, for tools/report.py: a good one with a few things done to it, by seed.

    python tests/fuzz/report_folders.py --count 200 --seed 0

builds a small run, reports on `--count` damaged copies and prints how many gave a report, a sentence, or anything else.
"""

import argparse
import copy
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import yaml

from lab.finished_runs import rebuild_pretraining
from lab.report.build import write_report
from lab.report.run_files import Notes
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain
from pretrain.errors import UserError

SMALL = """
model.backbone.embed_dim=24 model.backbone.depth=1 model.num_prototypes=32 model.head_hidden_dim=16
model.bottleneck_dim=8 dataloader.train.batch_size=4 dataloader.train.num_workers=0 train.max_iter=1 train.device=cpu
train.amp.enabled=False
""".split()
SCRIPT = "</svg><script>alert(1)</script>"
VALUES = [
    None,
    True,
    -1,
    0,
    1e308,
    -1e-308,
    10**18,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "a",
    "1",
    SCRIPT,
    "\ud800",
    "\0",
    "é\n" * 9,
    "x" * 10_000,
    [],
    {},
    [[]],
    [1, "b"],
    {"AP": "1"},
    {"": None},
    "${oc.env:HOME}",
    "${model}",
    "???",
    "javascript:alert(1)",
    {"_target_": "os.system", "command": "touch PWNED"},
    {"_target_": "builtins.exec"},
    {"_target_": ["eval"]},
    {"_target_": "pretrain.files.os.system"},
    {"_target_": "pretrain.files.write_text", "path": "PWNED", "text": "x"},
    {"_target_": {"_target_": "torch.hub.load"}},
    {"_target_": "${train.seed}"},
]
TEXTS = [
    "",
    "[",
    "{",
    "null",
    "[]",
    "3",
    '"text"',
    "\0" * 100,
    "[" * 50_000,
    '{"a":' * 50_000,
    "a: &a [*a]",
    "- " * 5_000,
    "\ufeff{}",
    "x: !!python/object/apply:os.system ['touch PWNED']",
    "x: !!python/name:os.system",
    "{}\n" * 5_000,
    "a: *b",
    "? [1]\n: 2",
    "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    '{"iteration": 1e999, "total_loss": 1}',
    '{"iteration": -5}\n{"iteration": [1]}',
    '{"iteration": 99999999999999999999999}',
]


def build_run(folder: Path) -> None:
    """A whole output folder of the pipeline, small: a pretraining of one step, and results of two detectors."""
    rng, data = np.random.default_rng(0), folder / "data"
    for name in ("unlabeled", "val", "annotations"):
        (data / name).mkdir(parents=True)
    for number in range(6):
        for part in ("unlabeled", "val"):
            cv2.imwrite(str(data / part / f"{number}.png"), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    found = [
        {"image_id": i, "category_id": 7, "bbox": [4, 5, 20, 10], "segmentation": [[4, 5, 24, 5, 24, 15, 4, 15]]}
        for i in range(1, 4)
    ]
    coco = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(1, 4)],
        "annotations": [entry | {"id": entry["image_id"], "area": 200, "iscrowd": 0} for entry in found],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    _write(data / "annotations" / "instances_val.json", coco)
    runs = {"seconds": {"pretrain": 3.0, "detect_scratch": 4.5}, "box_ap": {"pretrained": 2.0, "scratch": 1.0}}
    _write(folder / "result.json", runs | {"seed": 3, "command": "make demo", "machine": {"cpu": "a", "cores": 2}})
    for run in ("detect_pretrained", "detect_scratch"):
        measures = {task: {"AP": 9.5, "AP50": 20.0, "AP-cat": 3.0, "APl": None} for task in ("bbox", "segm")}
        _write(folder / run / "result.json", measures)
        _write(folder / run / "inference" / "coco_instances_results.json", [e | {"score": 0.9} for e in found])
        lines = [json.dumps({"iteration": i, "total_loss": 3 / (i + 1), "loss_cls": 1.0}) for i in range(0, 50, 10)]
        (folder / run / "metrics.json").write_text("\n".join(lines))
        (folder / run / "config.yaml").write_text("train: {max_iter: 50, seed: 1}\n")
    source = f"dataloader.train.source.root={data / 'unlabeled'}"
    pretrain(load_config("configs/pretrain/cropfield_tiny.py", [*SMALL, source, f"train.output_dir={folder}/pretrain"]))


def damage(folder: Path, rng: random.Random) -> list[str]:
    """Do one to three things to the files of a run -> what was done."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".yaml", ".pth")]
    done = []
    for path in rng.sample(files, rng.choice((1, 1, 2, 3))):
        ways = [_as_text, _as_bytes, _as_no_file]
        ways = [_inside] * 6 + ways if path.suffix != ".pth" else ways[1:]
        try:
            done.append(f"{path.relative_to(folder)}: {rng.choice(ways)(path, rng)}")
        except FileNotFoundError:  # its folder is gone by now
            continue
    return done


def _inside(path: Path, rng: random.Random) -> str:
    """Other values in one to three places of a JSON or YAML tree."""
    text = path.read_text()
    lines = path.name == "metrics.json"
    tree = [json.loads(line) for line in text.splitlines()] if lines else yaml.safe_load(text)
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = rng.choice(places)
        value = copy.deepcopy(rng.choice(VALUES))  # else a later change would put a value into itself
        if rng.random() < 0.15:
            del holder[key]
        elif isinstance(holder, dict) and rng.random() < 0.15:
            holder[rng.choice(["loss_" + SCRIPT, "AP-" + SCRIPT, "\ud800", "", "loss_x" * 100])] = value
        else:
            holder[key] = value
        done.append(f"{key}={str(value)[:40]!r}")
    if path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(tree), errors="surrogatepass")
    else:
        path.write_text("\n".join(map(json.dumps, tree)) if lines else json.dumps(tree))
    return ", ".join(done)


def _places(tree):
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def _as_text(path: Path, rng: random.Random) -> str:
    text = rng.choice(TEXTS)
    path.write_text(text)
    return f"text {text[:40]!r}"


def _as_bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        del data[rng.randrange(len(data) + 1) :]
    for _ in range(rng.choice((0, 1, 10))):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    return f"{len(data)} bytes, some of them others"


def _as_no_file(path: Path, rng: random.Random) -> str:
    kind = rng.choice(("absent", "folder", "pipe", "endless", "loop", "other"))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "absent":
        path.symlink_to({"endless": "/dev/zero", "loop": path, "other": sys.executable}[kind])
    return kind


def _write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def report(folder: Path, look_at: Callable[[str], None] = lambda page: None) -> str:
    """-> "report" or "sentence"; whatever else happens is raised. `look_at` gets the page."""
    notes = Notes()
    try:
        pretraining = notes.attempt("", lambda: rebuild_pretraining(folder / "pretrain", folder / "data" / "unlabeled"))
        val = folder / "data" / "annotations" / "instances_val.json"
        page = write_report(folder, pretraining, val, folder / "data" / "val", notes).read_text(encoding="utf-8")
    except UserError as error:
        assert "\n" not in str(error)
        return "sentence"
    assert SCRIPT not in page and "<script" not in page and page.rstrip().endswith("</html>")
    look_at(page)
    return "report, something left out" if notes else "report"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    outcomes = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(Path(__file__).parents[2])
        good = Path(temporary, "good")
        build_run(good)
        assert report(good) == "report"
        os.chdir(temporary)
        for seed in range(args.seed, args.seed + args.count):
            folder, started = Path(temporary, str(seed)), time.monotonic()
            shutil.copytree(good, folder)
            done = damage(folder, random.Random(seed))
            try:
                outcome = report(folder)
            except BaseException:
                outcome = "something else"
                print(seed, done, traceback.format_exc(), sep="\n")
            if time.monotonic() - started > 60 or Path(temporary, "PWNED").exists():
                outcome = "something else"
                print(seed, done, f"{time.monotonic() - started:.0f} s, or code was run", sep="\n")
            outcomes[outcome] += 1
            shutil.rmtree(folder)
    print(*(f"{count:6} {outcome}" for outcome, count in outcomes.most_common()), sep="\n")
    return int(outcomes["something else"] > 0)


if __name__ == "__main__":
    sys.exit(main())
