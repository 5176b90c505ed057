#!/usr/bin/env python3
"""Write OUT_DIR/report.html: numbers, curves and pictures of a pretrain-then-detect run.

    tools/report.py outputs/demo

OUT_DIR is the output of tools/demo.py or tools/pretrain_then_detect.py, finished or not. The report shows whatever is
there, and lists what is missing.
"""

import argparse
from pathlib import Path

from pretrain.errors import UserError, run_main
from pretrain.progress import say_starting


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUT_DIR", help="output folder of a run")
    parser.add_argument(
        "--images", type=Path, help="the unlabeled images (default: OUT_DIR/data/unlabeled, or the config's)"
    )
    parser.add_argument("--val-json", type=Path, help="validation set to draw detections on (default: the detector's)")
    parser.add_argument("--val-images", type=Path, help="folder of its images (default: the detector's)")
    args = parser.parse_args(argv)
    for path in filter(None, (args.images, args.val_json, args.val_images)):
        if not path.exists():
            raise UserError(f"there is no {path}; check the path, or leave the option out")
    data = args.folder / "data"
    if args.images is None and (data / "unlabeled").is_dir():
        args.images = data / "unlabeled"
    return args


def main() -> None:
    args = parse_args()
    say_starting()
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is not a folder; give the output folder of a run, such as outputs/demo")
    from lab.finished_runs import rebuild_pretraining
    from lab.report.build import write_report
    from lab.report.run_files import Notes

    notes = Notes()
    pretraining = notes.attempt(
        "pictures of the pretraining", lambda: rebuild_pretraining(args.folder / "pretrain", args.images)
    )
    path = write_report(args.folder, pretraining, args.val_json, args.val_images, notes)
    print(*(f"left out: {note}" for note in notes), path, sep="\n")


if __name__ == "__main__":
    run_main(main)
