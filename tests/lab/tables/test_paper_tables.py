"""The papers' figures, copied: what their own text says of them must hold."""

import pytest

from lab.tables.papers import paper_tables, read_table

TABLES = paper_tables()

# Sums of all figures, taken when every row was found, number by number, in the papers' text.
SUMS = {
    **{"one:1a": 1207.7, "one:1b": 1024.1, "one:2": 182.6, "one:3": 327.7, "one:4a": 248.9, "one:4b": 168.7},
    **{"one:5a": 168.7, "one:5b": 209.3, "one:7a": 1509.4, "one:7b": 1301.1},
    **{"two:1": 1291.2, "two:2": 751.6, "two:3": 1521.1, "two:4": 3336.9, "two:5": 141.1, "two:6": 166.5},
    **{"two:7": 224.0, "two:8": 218.3, "two:13": 4337.0, "two:14": 1476.7, "two:15": 166.0, "two:16": 2082.7},
    "two:17": 347.8,
}


def rows(key: str) -> dict[tuple[str, ...], tuple[float | None, ...]]:
    return dict(TABLES[key].rows)


def test_every_table_of_figures_is_there_once():
    one = ["1a", "1b", "2", "3", "4a", "4b", "5a", "5b", "7a", "7b"]
    two = [*map(str, range(1, 9)), *map(str, range(13, 18))]
    assert list(TABLES) == [f"one:{n}" for n in one] + [f"two:{n}" for n in two]


@pytest.mark.parametrize("key", TABLES)
def test_rows_are_whole_and_distinct(key):
    table = TABLES[key]
    assert table.key == key and len(rows(key)) == len(table.rows) >= 2
    found = [value for _, values in table.rows for value in values if value is not None]
    assert sum(found) == pytest.approx(SUMS[key], abs=0.01)
    assert all(15 < value < 100 for value in found)
    assert table.command and all(column.metrics for column in table.columns)
    assert not any(label.lower() == "ours" for labels, _ in table.rows for label in labels)  # whose it is must be told


@pytest.mark.parametrize("text", ["a,b\nx,1\ny\n", "a,c\nx,1\n", "a\nx\n"])
def test_a_file_that_is_not_as_announced_is_noticed(tmp_path, text):
    file = tmp_path / "t.csv"
    entry = {"caption": "", "columns": {"b": ["knn", "imagenet", "top1"]}, "command": "", "where": {}}
    file.write_text("a,b\nx,1\ny,-\n")
    assert read_table("one:0", entry, file).rows == ((("x",), (1.0,)), (("y",), (None,)))
    file.write_text(text)
    with pytest.raises(ValueError, match="t.csv"):
        read_table("one:0", entry, file)


def test_what_the_first_papers_prose_says():
    table = rows("one:1a")
    ours, mae, loca = table["CropField (paper's)", "350"], table["MAE", "1600"], table["LOCA", "600"]
    assert ours[0] - loca[0] == pytest.approx(0.9) and ours[1] - loca[1] == pytest.approx(0.8)
    assert mae[0] < loca[0]
    three = rows("one:3")
    assert three["yes", "no"][0] - three["no", "no"][0] == pytest.approx(1.9)
    assert three["no", "yes"][0] - three["no", "no"][0] == pytest.approx(2.4)
    assert three["yes", "yes"][0] - three["no", "yes"][0] == pytest.approx(1.1)
    assert rows("one:7a")["DINOv2-reg, 142M images", "-"][0] == 52.2
    assert rows("one:7b")["DINOv2, 142M images", "-"][0] == 47.4


def test_the_default_of_each_ablation_is_the_row_of_table_1b():
    default = rows("one:1b")["CropField (paper's)", "350"][:2]
    defaults = {"3": ("yes", "yes"), "4a": ("Beta(2, 5)",), "4b": ("50 x 50",), "5a": ("cross-wise",)}
    for number, labels in {**defaults, "5b": ("50% each",)}.items():
        assert rows(f"one:{number}")[labels] == default


@pytest.mark.parametrize(("small", "large"), [("one:1a", "one:7a"), ("one:1b", "one:7b")])
def test_table_7_holds_table_1(small, large):
    assert rows(small).items() <= rows(large).items()


@pytest.mark.parametrize(("small", "large"), [("two:3", "two:16"), ("two:4", "two:13")])
def test_the_appendix_holds_the_main_tables(small, large):
    assert rows(small).items() <= rows(large).items()


def test_the_second_papers_table_1_is_its_own_differences():
    printed = {"ViT-B/16": (3.2, 1.7, 1.6), "ViT-L/16": (0.9, 1.0, 1.0), "ViT-H/14": (2.5, 0.8, 0.3)}
    table = rows("two:1")
    for arch, differences in printed.items():
        pairs = zip(table[arch, "StoP (paper's)"], table[arch, "I-JEPA"], strict=True)
        assert [a - b for a, b in pairs] == pytest.approx(differences)


def test_table_1_is_table_2_and_table_14():
    for (arch, method), (_, last, last_four) in rows("two:1").items():
        epochs = "300" if arch == "ViT-H/14" else "600"
        assert rows("two:2")[method, arch, epochs] == (last,)
        assert rows("two:14")[method, arch, epochs] == (last_four,)


def test_the_rows_without_a_label_are_stop():
    """What the prose says of StoP against I-JEPA holds for them (Sec. 4.1)."""
    davis, transfer = rows("two:3"), rows("two:4")
    assert davis["StoP (paper's)", "ViT-L/16"][2] - davis["I-JEPA", "ViT-L/16"][2] == pytest.approx(2.5)
    stop, base = transfer["StoP (paper's)", "ViT-H/14"], transfer["I-JEPA", "ViT-H/14"]
    assert stop[2] - base[2] == pytest.approx(3.3) and stop[3] - base[3] == pytest.approx(1.3)
    assert stop[4] - base[4] == pytest.approx(0.1)


def test_jf_is_the_mean_of_j_and_f():
    for j, f, both in rows("two:16").values():
        assert both == pytest.approx((j + f) / 2, abs=0.101)  # each is rounded


def test_fine_tuning_agrees_between_tables():
    assert rows("two:5")["StoP (paper's)", "600"] == rows("two:17")["StoP (paper's)", "ViT-L/16", "600"]
    assert rows("two:5")["sine-cosine", "600"] == rows("two:17")["I-JEPA", "ViT-L/16", "600"]


def test_the_ablations_of_stop_start_and_end_alike():
    firsts, lasts = ({TABLES[f"two:{n}"].rows[i][1] for n in (6, 7, 8)} for i in (0, -1))
    assert firsts == {(54.3,)} and lasts == {(57.8,)}
