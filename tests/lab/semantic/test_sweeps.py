from lab.semantic.sweeps import Setting, best_of, markdown_table

SETTINGS = [
    Setting(("optimizer.lr=8e-5", "optimizer.weight_decay=1e-2"), [40.0, 44.0]),
    Setting(("optimizer.lr=3e-5", "optimizer.weight_decay=1e-2"), [43.0, 42.0]),
    Setting(("optimizer.lr=1e-5", "optimizer.weight_decay=1e-2"), [50.0, None]),
]


def test_the_best_mean_wins_and_a_run_without_figure_does_not():
    assert best_of(SETTINGS).overrides[0] == "optimizer.lr=3e-5" and best_of(SETTINGS).mean == 42.5
    assert best_of(SETTINGS[:1] * 2) is SETTINGS[0]


def test_the_table_has_each_run_and_marks_the_best():
    head, rule, *rows = markdown_table(SETTINGS, "mIoU").splitlines()
    assert head == "| optimizer.lr | optimizer.weight_decay | mIoU, run 1 | mIoU, run 2 | mean |"
    assert rule.count("---") == 5
    assert rows == [
        "| 8e-5 | 1e-2 | 40.00 | 44.00 | 42.00 |",
        "| 3e-5 | 1e-2 | 43.00 | 42.00 | **42.50** |",
        "| 1e-5 | 1e-2 | 50.00 | – | – |",
    ]
