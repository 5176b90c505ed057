"""Rows of ours beside the paper's, never in one row with it."""

import csv
import io
from pathlib import Path

import pytest

from lab.tables.gather import Result
from lab.tables.match import rows_here, unplaced
from lab.tables.papers import paper_tables
from lab.tables.write import as_csv, markdown

TABLES = paper_tables()
ALL = list(TABLES.values())


def result(protocol, dataset, model, metrics, folder="run", **settings) -> Result:
    return Result(Path(folder) / "result.json", protocol, dataset, model, metrics, settings)


DAVIS = result("video", "davis2017", "mine", {"J_mean": 51.04, "F_mean": 53.0, "JF_mean": 52.02}, "davis")
COCO = result("detection", "coco", "mine", {"box_AP": 44.44, "mask_AP": 39.9}, "coco", epochs=12, backbone="ViT-S/16")
ADE = result("semantic_seg", "ade20k", "mine", {"mIoU": 44.0}, "ade", backbone="ViT-S/16")
OTHER = result("detection", "scenes", "mine", {"box_AP": 99.0}, "scenes")


def cells(text: str, marker: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {marker}")]


def test_a_table_has_the_papers_rows_and_ours():
    text = markdown([TABLES["two:3"]], [DAVIS])
    paper, here = cells(text, "*paper*"), cells(text, "**here**")
    assert len(paper) == 9 and paper[0] == ["*paper*", "MAE", "ViT-B/16", "49.4", "52.6", "50.9"]
    assert here == [["**here**", "mine", "–", "**51.0**", "**53.0**", "**52.0**"]]
    assert TABLES["two:3"].command in text


def test_figures_of_one_model_on_two_datasets_share_a_row():
    rows = rows_here(TABLES["one:1b"], [COCO, ADE, OTHER])
    assert list(rows) == ["mine"] and [figure.value for figure in rows["mine"]] == [44.44, 39.9, 44.0]


def test_what_contradicts_a_table_stays_out():
    assert rows_here(TABLES["one:1a"], [COCO, ADE]) == {}  # ViT-B
    assert rows_here(TABLES["one:2"], [COCO]) == {}  # 50 epochs
    assert rows_here(TABLES["two:3"], [result("video", "davis/val", "mine", {"J_mean": 90.0})]) == {}
    short = result("video", "davis2017", "mine", {"J_mean": 50.0}, short_side=240)
    assert rows_here(TABLES["two:3"], [short]) == {}


def test_of_a_columns_metrics_the_best_counts():
    metrics = {"top1": 70.0, "top1_patch_last": 60.0, "top1_cls_last": 65.0, "top1_cls_last4": 70.0}
    row = rows_here(TABLES["two:1"], [result("linear_probe", "imagenet", "mine", metrics)])["mine"]
    assert row[0] is None
    assert [(f.value, f.metric) for f in row[1:]] == [(65.0, "top1_cls_last"), (70.0, "top1_cls_last4")]


def test_two_runs_of_a_model_get_rows_of_their_own():
    again = result("video", "davis2017", "mine", {"J_mean": 40.0}, "again")
    rows = rows_here(TABLES["two:3"], [DAVIS, again])
    assert list(rows) == ["mine (again)", "mine (davis)"]
    assert rows["mine (again)"][0].value == 40.0 and rows["mine (again)"][1] is None


def test_no_result_is_lost():
    assert unplaced(ALL, [DAVIS, COCO, ADE, OTHER]) == [OTHER]
    text = markdown([TABLES["two:3"]], [OTHER])
    assert "in no table of the papers" in text and "box_AP 99" in text


def test_only_measured_tables():
    text = markdown(ALL, [DAVIS], measured_only=True)
    assert text.count("\n## ") == 2 and "Table 3" in text and "Table 16" in text
    assert markdown(ALL, [DAVIS]).count("\n## ") == len(ALL)


def test_the_csv_has_every_figure_and_whose_it_is():
    lines = list(csv.DictReader(io.StringIO(as_csv(ALL, [DAVIS, COCO, OTHER]))))
    printed = sum(value is not None for table in ALL for _, values in table.rows for value in values)
    paper = [line for line in lines if line["source"] == "paper"]
    assert len(paper) == printed and not any(line["file"] for line in paper)
    here = {(line["table"], line["column"]): line for line in lines if line["source"] == "here"}
    assert float(here["two:16", "J-Mean"]["value"]) == pytest.approx(51.04)
    assert here["two:16", "J-Mean"]["file"] == "davis/result.json"
    assert here["", "box_AP"]["dataset"] == "scenes"
    assert all(line["source"] in ("paper", "here") for line in lines)
