"""The whole page, from a small output folder made here."""

import base64
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import cv2
import msgspec
import numpy as np
import pytest
import torch
from pycocotools import mask as pycocotools

from cropfield.coco_files import coco_images
from lab.finished_runs import Pretraining
from lab.report import views
from lab.report.build import validation_set, write_report
from lab.report.numbers import verdict
from lab.report.run_files import Detection, Notes, read_run
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer

VOID = {"meta", "img", "br", "input"}
AP = {
    "pretrained": {
        "bbox": {"AP": 21.37, "AP50": 40.12, "APs": 3.21, "APl": None, "AP-cat": 31.94, "AP-<b>": 10.81},
        "segm": {"AP": 19.55, "AP50": 38.43, "APs": 2.19, "APl": float("nan"), "AP-cat": 29.73, "AP-<b>": 9.37},
    },
    "scratch": {
        "bbox": {"AP": 16.91, "AP50": 33.08, "APs": 4.67, "APl": None, "AP-cat": 24.42, "AP-<b>": 9.28},
        "segm": {"AP": 20.14, "AP50": 30.72, "APs": 1.85, "APl": None, "AP-cat": 22.52, "AP-<b>": 17.76},
    },
}


class Page(HTMLParser):
    """Checks that tags nest and close, and collects ids, links and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.words, self.attributes = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.attributes += attributes
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.sources += [attributes["src"]] if "src" in attributes else []
        if tag == "img":
            assert attributes["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture
def folder(tmp_path):
    """An output folder with everything but the pretraining."""
    rng = np.random.default_rng(0)
    val = tmp_path / "data" / "val"
    val.mkdir(parents=True)
    annotations, detections = [], []
    for image_id in (1, 2, 3):
        cv2.imwrite(str(val / f"{image_id}.png"), rng.integers(0, 255, (32, 40, 3), dtype=np.uint8))
        shape = {"image_id": image_id, "category_id": 7, "bbox": [4, 5, 20, 10]}
        shape["segmentation"] = [[4, 5, 24, 5, 24, 15, 4, 15]]
        annotations.append(shape | {"id": image_id, "area": 200, "iscrowd": 0})
        detections += [shape | {"score": 0.9}, shape | {"score": 0.2}]
    images = [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 40} for i in (1, 2, 3)]
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "<b>"}],
    }
    write(tmp_path / "data" / "annotations" / "instances_val.json", coco)
    for run, result in AP.items():
        part = tmp_path / f"detect_{run}"
        write(part / "result.json", result)
        write(part / "inference" / "coco_instances_results.json", detections)
        lines = [{"iteration": i, "total_loss": 3 / (i + 1), "loss_cls": 1 / (i + 1)} for i in range(0, 50, 10)]
        part.joinpath("metrics.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 5')
    result = {
        "seed": 3,
        "box_ap": {run: AP[run]["bbox"]["AP"] for run in AP},
        "mask_ap": {run: AP[run]["segm"]["AP"] for run in AP},
        "seconds": {"compose": 4.2, "pretrain": 185.0},
        "command": "make <demo>",
        "machine": {"cpu": "Some & CPU", "cores": 2},
    }
    write(tmp_path / "result.json", result)
    return tmp_path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def render(folder, pretraining=None):
    data = folder / "data"
    path = write_report(folder, pretraining, data / "annotations" / "instances_val.json", data / "val")
    return path.read_text(encoding="utf-8")


def small_pretraining():
    torch.manual_seed(0)
    shape = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2, field_size=6)
    untrained, trained = (VisionTransformer(**shape).eval().requires_grad_(False) for _ in range(2))
    boxes = torch.rand(4, 2, 2).sort(dim=1).values.flatten(1)
    mask = torch.zeros(4, 16, dtype=torch.bool)
    mask[0, :5] = True
    batch = {
        "global_crops": torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8),
        "global_boxes": boxes,
        "global_image_boxes": boxes,
        "content_masks": mask,
        "position_masks": mask.flip(0),
        "index": torch.tensor([1, 0]),
    }
    images = [np.full((40, 48, 3), level, np.uint8) for level in (60, 160)]
    return Pretraining(untrained, trained, 120, batch, images)


@pytest.fixture
def page(folder):
    return Page(render(folder, small_pretraining()))


def test_page_is_well_formed_and_every_link_leads_somewhere(page):
    assert len(page.ids) == len(set(page.ids)) >= 10
    assert {link.removeprefix("#") for link in page.links} == set(page.ids)


def test_somebodys_own_page_stays(folder):
    render(folder), render(folder)  # its own may be made anew
    (folder / "report.html").write_text("my own page")
    with pytest.raises(UserError, match=r"report\.html exists and is not a report of this tool"):
        render(folder)
    assert (folder / "report.html").read_text() == "my own page"


def test_nothing_is_fetched(folder):
    text = render(folder, small_pretraining())
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    sources = Page(text).sources
    assert len(sources) > 20 and all(source.startswith("data:image/") for source in sources)
    assert text.count('type="checkbox"') == len(sources)  # a click enlarges each
    assert not any("//" in link for svg in charts(text) for link in re.findall(r'href="([^"]*)"', svg))


def test_numbers_are_those_of_the_results(page):
    for result in AP.values():
        for task in result.values():
            for key, value in task.items():
                assert value is None or value != value or f"{value:.1f}" in page.text, key
    assert "None" not in page.text and "nan" not in page.text


def test_table_puts_each_number_in_its_place(folder):
    text = render(folder)
    rows = re.findall(r"<tr>(<th scope=\"row\">.*?)</tr>", text, re.DOTALL)
    plain = [re.sub(r"<[^>]*>", " ", row).split() for row in rows]
    assert ["AP", "21.4", "16.9", "+4.5"] in plain and ["AP", "19.6", "20.1", "−0.5"] in plain
    assert ["AP", "small", "3.2", "4.7", "−1.5"] in plain
    assert not any(row[:2] == ["AP", "large"] for row in plain)  # no such object in the set


def test_the_untrained_twin_has_its_column(folder):
    write(folder / "detect_untrained" / "result.json", {"bbox": {"AP": 7.5, "APs": 0.1}})
    assert "without the pretraining: box AP 7.5. This is one seed" in verdict(read_run(folder))
    table = render(folder).partition("box AP</caption>")[2]
    heads, *rows = re.findall(r"<tr>(<th scope=\"[cr].*?)</tr>", table, re.DOTALL)
    plain = [re.sub(r"<[^>]*>", " ", row).split() for row in (heads, *rows)]
    assert plain[0] == ["pretrained", "untrained", "scratch", "pretrained", "−", "scratch"]
    assert ["AP", "21.4", "7.5", "16.9", "+4.5"] in plain and ["AP50", "40.1", "–", "33.1", "+7.0"] in plain


def test_equal_figures_have_no_best_and_no_sign(folder):
    for run, ap in (("pretrained", 9.998), ("untrained", 10.0), ("scratch", 10.0)):
        write(folder / f"detect_{run}" / "result.json", {"bbox": {"APs": ap, "APm": 20.0 if run == "scratch" else 1.0}})
    rows = re.findall(r"<tr>(<th scope=\"row\">AP (?:small|medium)<.*?)</tr>", render(folder), re.DOTALL)
    assert ["best" in row for row in rows] == [False, True]
    assert "+0.0" in rows[0] and "−19.0" in rows[1]


def test_verdict_is_honest(folder):
    result = json.loads((folder / "result.json").read_text())
    scratch = [result[f"{kind}_ap"]["scratch"] for kind in ("box", "mask")]
    for box, mask, words in (
        (30.0, 30.0, "Pretraining won: "),
        (1.0, 1.0, "Pretraining lost: "),
        (30.0, 1.0, "Boxes and masks disagree about who won: "),
        (scratch[0] + 0.9, 30.0, "Pretraining won in mask AP only: "),
        (1.0, scratch[1] - 0.9, "Pretraining lost in box AP only: "),
        (scratch[0] + 0.9, scratch[1] - 0.9, "Neither is clearly ahead: "),
    ):
        result["box_ap"]["pretrained"], result["mask_ap"]["pretrained"] = box, mask
        write(folder / "result.json", result)
        assert verdict(read_run(folder)).startswith(words)
    assert verdict(read_run(folder)) in Page(render(folder)).text


def test_text_from_the_run_is_escaped(page):
    assert "make <demo>" in page.text and "Some & CPU" in page.text and "<b>" in page.text


def test_any_name_is_shown_as_it_is(folder):
    names = ["Übergröße", "猫と犬", "$x^$ {{ 7 * 7 }}", "</svg><script>alert(1)</script>", 'a" onload="b']
    coco = folder / "data" / "annotations" / "instances_val.json"
    content = json.loads(coco.read_text())
    categories = [{"id": 7 + n, "name": name} for n, name in enumerate(names)]
    for annotation, category in zip(content["annotations"], categories, strict=False):
        annotation["category_id"] = category["id"]
    write(coco, content | {"categories": categories})
    write(folder / "detect_pretrained" / "result.json", {"bbox": {"AP": 20.0} | {f"AP-{name}": 31.9 for name in names}})
    log = {"iteration": 1} | {f"loss_{name}": 1.0 for name in names}
    (folder / "detect_pretrained" / "metrics.json").write_text(json.dumps(log))
    facts = dict.fromkeys(names, 3)
    result = {"command": names[0], "machine": facts, "seed": names[1], "seconds": facts}
    write(folder / "result.json", result)
    text = render(folder, small_pretraining())
    page = Page(text)
    assert "<script" not in text and "onload" not in page.attributes
    assert all(page.text.count(name) >= 4 for name in names)  # machine, class, loss, seconds


def charts(text):
    return [base64.b64decode(svg).decode() for svg in re.findall(r"data:image/svg\+xml;base64,([^\"]*)", text)]


def test_charts_show_the_losses_as_they_were_logged(folder):
    lines = [(0, 4.0), (10, 2.0), (20, float("nan")), (30, 3.0)]
    log = folder / "detect_pretrained" / "metrics.json"
    log.write_text("\n".join(json.dumps({"iteration": i, "loss_mask": y, "loss_z": float("inf")}) for i, y in lines))
    (folder / "detect_scratch" / "metrics.json").unlink()
    text = render(folder)
    (svg,) = charts(text)
    path = re.search(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: #0072b2', svg).group(1)
    xs, ys = zip(*(map(float, point) for point in re.findall(r"([\d.]+) ([\d.]+)", path)), strict=True)
    assert len(xs) == 3 and xs[2] - xs[1] == pytest.approx(2 * (xs[1] - xs[0]), rel=0.01)
    assert ys[0] < ys[2] < ys[1]  # larger values lie higher, and y points down
    assert ElementTree.fromstring(svg).tag.endswith("svg") and charts(render(folder)) == [svg]


def test_the_detection_probe_has_its_charts(folder):
    before = len(charts(render(folder)))
    assert "k-NN of objects" not in render(folder)
    (folder / "pretrain").mkdir(exist_ok=True)
    lines = [{"iteration": i, "probe/object_knn": 60.0 + i, "probe/box_ap": 1.0, "monitor/rank": 2.0} for i in (0, 9)]
    (folder / "pretrain" / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    text = render(folder)
    assert len(charts(text)) == before + 2 and all(f"<h3>{name}" in text for name in ("k-NN of objects", "box AP"))
    assert text.index("<h3>box AP") < text.index("<h3>k-NN")


def test_only_confident_detections_are_drawn(page):
    assert page.text.count("pretrained: 1") == 3  # of two detections in each of three images


def test_detections_with_run_lengths_are_drawn(folder):
    file = folder / "detect_pretrained" / "inference" / "coco_instances_results.json"
    mask = np.zeros((32, 40), np.uint8, order="F")
    mask[5:15, 4:24] = 1
    runs = {"size": [32, 40], "counts": pycocotools.encode(mask)["counts"].decode()}
    write(file, [entry | {"segmentation": runs} for entry in json.loads(file.read_text())])
    notes = Notes()
    coco = coco_images(json.loads((folder / "data" / "annotations" / "instances_val.json").read_text()), folder)
    entries = msgspec.json.decode(file.read_bytes(), type=list[Detection])
    drawn = views.drawable("pretrained", entries, coco, {1: np.zeros((32, 40, 3), np.uint8)}, notes)
    assert [entry["score"] for entry in drawn[1]] == [0.9] and not notes


def test_target_blocks_show_what_is_left_of_a_crop_and_what_is_asked_for():
    pretraining = small_pretraining()
    pretraining.batch["context_patches"] = [torch.tensor([[0, 1, 4], [2, 3, 7]])]
    pretraining.batch["target_patches"] = torch.tensor([[[[10, 11], [14, 15]]], [[[8, 9], [12, 13]]]])
    rows = views.target_blocks(pretraining)
    assert [[panel.text for panel in row] for row in rows] == [
        ["context: 3 of 16 patches", "target 1: 4 of 16 patches"]
    ] * 2
    shown = (rows[0][1].picture != 128).any(-1)
    assert shown[32:, 32:].mean() > 0.99 and not shown[:32].any() and not shown[:, :32].any()
    assert views.target_blocks(small_pretraining()) == []


def test_parts_that_are_absent_are_said_to_be(folder, tmp_path_factory):
    assert "nothing was pretrained here" in Page(render(folder)).text
    bare = Page(render(tmp_path_factory.mktemp("bare"), small_pretraining()))
    assert "No detector has been evaluated yet" in bare.text
    assert len(bare.sources) > 20  # pretraining's pictures are there all the same


def test_a_broken_file_is_an_absent_one(folder):
    (folder / "detect_scratch" / "result.json").write_text('{"bbox": {"AP": 1')
    (folder / "result.json").write_text("[")
    text = Page(render(folder)).text
    assert "box AP 21.4 pretrained; mask AP 19.6 pretrained. To see what" in text


def test_a_missing_folder_is_the_users_to_fix(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        render(tmp_path / "absent")


def test_an_empty_page_is_no_report(tmp_path):
    with pytest.raises(UserError, match="holds nothing to report on, neither in pretrain/ nor in detect/; give"):
        render(tmp_path)
    write(tmp_path / "metrics.json", {"iteration": 1, "total_loss": 1.0})
    write(tmp_path / "result.json", AP["scratch"])
    (tmp_path / "pretrain").mkdir()
    with pytest.raises(UserError, match="which is the folder of one training, holds nothing"):
        render(tmp_path)
    assert not (tmp_path / "report.html").exists()
    write(tmp_path / "detect" / "metrics.json", {"iteration": 1, "total_loss": 1.0})
    render(tmp_path)


@pytest.mark.parametrize("files", ["[a.json, b.json]", "'*.json'"])
def test_detections_in_several_annotation_files_are_told(folder, files):
    (folder / "data" / "annotations" / "instances_val.json").unlink()
    (folder / "detect_pretrained" / "config.yaml").write_text(f"dataset: {{val_json: {files}, val_images: x}}")
    assert "evaluated on several annotation files at once" in Page(render(folder)).text


def test_the_validation_set_is_the_demos_or_the_detectors(folder, tmp_path):
    own, other = folder / "data" / "annotations" / "instances_val.json", tmp_path / "labels.json"
    other.write_text("{}")
    config = f"dataset: {{val_json: {other}, val_images: {tmp_path}}}"
    (folder / "detect_pretrained" / "config.yaml").write_text(config)
    assert validation_set(folder, read_run(folder), Notes()) == (own, folder / "data" / "val")
    own.unlink()
    assert validation_set(folder, read_run(folder), Notes()) == (other, tmp_path)
    other.unlink()
    assert validation_set(folder, read_run(folder), Notes()) == (own, folder / "data" / "val")
