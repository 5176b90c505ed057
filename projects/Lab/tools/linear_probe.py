#!/usr/bin/env python3
"""Linear classifiers on a frozen backbone: StoP's Tables 1, 2, 4, 6 to 8, 13 and 14.

    projects/Lab/tools/linear_probe.py --weights vitb16.safetensors --dataset imagenet --data imagenet --output probe
    projects/Lab/tools/linear_probe.py --weights vitb16.safetensors --dataset imagenet_1pct --data datasets/imagenet \\
        --train-list 1percent.txt --output probe_1pct --logistic

Features are computed once and cached; then all classifiers of the sweep are trained together. The best on validation
images is reported, as in VISSL, which is slightly optimistic. --logistic fits logistic regressions instead, as StoP's
release does with 1% of the labels. docs/reproduce/probes.md has the command for each table.
"""

import time

from tabulate import tabulate

from lab.probes.arguments import add_cache, evaluation_parser
from lab.probes.recipes import PROBE_EPOCHS
from pretrain.engine.arguments import above_zero, not_negative, positive
from pretrain.errors import run_main


def parse_args(argv=None):
    parser = evaluation_parser(__doc__)
    add = parser.add_argument
    add(
        "--pool",
        nargs="+",
        choices=("cls", "patch"),
        help="class token, mean patch (default: class token if there is one)",
    )
    add(
        "--layers",
        type=positive,
        nargs="+",
        default=[1, 4],
        metavar="L",
        help="last layers to concatenate (default 1 4)",
    )
    add("--batch-norm", nargs="+", choices=("yes", "no"), default=["yes", "no"], help="before the linear layer")
    add("--lr", type=above_zero, nargs="+", default=[0.003, 0.01, 0.03, 0.1, 0.3], help="for 256 images a step")
    add("--weight-decay", type=not_negative, nargs="+", default=[0.0, 0.0005])
    add("--epochs", type=positive, help="default: VISSL's for the dataset, 14 to 100")
    add("--logistic", action="store_true", help="logistic regression on standardised features; sweeps only --l2")
    add(
        "--l2",
        type=not_negative,
        nargs="+",
        default=[2.5e-4],
        help="its penalty for one image (default: StoP's 2.5e-4)",
    )
    add(
        "--views",
        type=positive,
        default=1,
        help="views of each training image, used in turn; VISSL uses a new one in each epoch",
    )
    add_cache(parser)
    args = parser.parse_args(argv)
    if args.batch_size == 1 and "yes" in args.batch_norm and not args.logistic:
        parser.error("--batch-size 1: batch norm needs two; give more, or --batch-norm no")
    return args


def table(results: list) -> str:
    """All classifiers, best first."""
    rows = [
        (s.features, "yes" if s.batch_norm else "no", s.lr, s.weight_decay, f"{r.top1:.2f}", f"{r.top5:.2f}")
        for r in sorted(results, key=lambda r: -r.top1)
        for s in [r.setting]
    ]
    names = ("features", "batch norm", "lr", "weight decay", "top-1", "top-5")
    return tabulate(rows, names, disable_numparse=True, colalign=("left", "left", *4 * ["right"]))


def as_dict(result) -> dict:
    return {**vars(result.setting), "top1": result.top1, "top5": result.top5}


def main() -> None:
    args = parse_args()
    from detectron2.utils.logger import setup_logger

    from cropfield.results import RESULT
    from lab.probes.evaluation import features_of, report
    from lab.probes.linear_probe import best_by_features, evaluate_probes, sweep, train_probes
    from lab.probes.logistic import fit_logistic
    from pretrain.outputs import open_output

    open_output(args.output, [RESULT])
    setup_logger(str(args.output), name="pretrain", abbrev_name="pretrain")
    started = time.perf_counter()
    pools = tuple(dict.fromkeys(args.pool)) if args.pool else None
    train, val, classes = features_of(args, max(args.layers), pools, args.views)
    extracted = time.perf_counter()
    epochs = args.epochs or PROBE_EPOCHS[args.dataset]
    if args.logistic:
        settings = sweep(train.pools, args.layers, [True], [0.0], args.l2)
        probes = fit_logistic(train, len(classes), settings, device=args.device)
    else:
        norms = [choice == "yes" for choice in args.batch_norm]
        settings = sweep(train.pools, args.layers, norms, args.lr, args.weight_decay)
        probes = train_probes(train, len(classes), settings, epochs, args.batch_size or 256, args.seed, args.device)
    results = evaluate_probes(probes, val)
    trained = time.perf_counter()
    best = best_by_features(results)
    winner = max(best.values(), key=lambda result: result.top1)
    print(table(results))
    print(f"features {extracted - started:.1f} s, {len(settings)} classifiers {trained - extracted:.1f} s")
    metrics = {"top1": winner.top1, "top5": winner.top5} | {f"top1_{kind}": r.top1 for kind, r in best.items()}
    choices = {"best": as_dict(winner), "sweep": [as_dict(result) for result in results]}
    choices |= {name: getattr(args, name) for name in ("image_size", "views", "seed")}
    choices |= {"classifier": "logistic"} if args.logistic else {"classifier": "sgd", "epochs": epochs}
    choices |= {"images": [len(train), len(val)], "seconds": [extracted - started, trained - extracted]}
    report(args, "linear_probe", metrics, choices)


if __name__ == "__main__":
    run_main(main)
