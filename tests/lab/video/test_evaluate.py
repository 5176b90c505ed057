"""From frames to figures."""

import numpy as np
import pytest
import torch

from lab.compose.videos import VideoPlan, compose_videos
from lab.video import evaluate
from lab.video.davis import davis_palette, find_videos, read_mask, write_mask
from lab.video.evaluate import ObjectScore, evaluate_video, overall, propagate_masks
from lab.video.measures import Statistics, boundary
from lab.video.propagate import Propagation
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer


@pytest.fixture
def video(tmp_path):
    compose_videos(VideoPlan(1, 5, 2, (64, 96)), tmp_path / "davis", davis_palette())
    return find_videos(tmp_path / "davis")[0]


def test_an_annotation_of_another_size_is_told(video, backbone, tmp_path):
    write_mask(video.masks[2], np.zeros((64, 90), np.uint8), davis_palette())
    with pytest.raises(UserError, match="00002.png has another size than the first annotation"):
        evaluate_video(backbone, video, tmp_path / "masks", Propagation())


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return VisionTransformer(8, 32, 1, 4, field_size=8).requires_grad_(False).eval()


def test_the_truth_scores_full_marks_and_the_ends_are_not_measured(video, backbone, tmp_path, monkeypatch):
    truth = [read_mask(path)[0] for path in video.masks]
    answers = [np.zeros_like(truth[0]), *truth[1:-1], np.zeros_like(truth[0])]
    monkeypatch.setattr(evaluate, "propagate_masks", lambda *_: iter(answers))
    scores = evaluate_video(backbone, video, tmp_path / "masks", Propagation())
    assert [score.name for score in scores] == ["composed-00_1", "composed-00_2"]
    assert all(score.region.mean == score.boundary.mean == 1 for score in scores)
    answers[2] = np.zeros_like(truth[0])
    scores = evaluate_video(backbone, video, tmp_path / "masks", Propagation())
    assert all(score.region.mean == pytest.approx(2 / 3) for score in scores)


def test_objects_that_swap_their_numbers_score_nothing(video, backbone, tmp_path, monkeypatch):
    swap = np.array([0, 2, 1], np.uint8)
    monkeypatch.setattr(evaluate, "propagate_masks", lambda *_: (swap[read_mask(path)[0]] for path in video.masks))
    assert all(score.region.mean == 0 for score in evaluate_video(backbone, video, tmp_path, Propagation()))


def test_an_object_that_has_lost_its_inside_keeps_its_boundary(video, backbone, tmp_path, monkeypatch):
    """J and F are told apart: a ring within F's tolerance of the outline has little area."""

    def rings(*_):
        for path in video.masks:
            truth = read_mask(path)[0]
            yield np.where(boundary(truth), truth, 0).astype(np.uint8)

    monkeypatch.setattr(evaluate, "propagate_masks", rings)
    for score in evaluate_video(backbone, video, tmp_path, Propagation()):
        assert score.region.mean < 0.5 < score.boundary.mean


def test_masks_are_written_as_davis_wants_them(video, backbone, tmp_path):
    evaluate_video(backbone, video, tmp_path / "masks", Propagation(), 64)
    written = sorted((tmp_path / "masks" / "composed-00").iterdir())
    assert [path.name for path in written] == [path.name for path in video.masks]
    assert np.array_equal(read_mask(written[0])[0], read_mask(video.masks[0])[0])
    for path in written:
        mask, palette = read_mask(path)
        assert mask.shape == (64, 96) and mask.max() <= 2 and palette[:9] == davis_palette()[:9]


def test_what_stands_still_stays(video, backbone):
    """Every frame is the first one: each patch finds itself, so that the masks stay but for the patches' coarseness."""
    still = type(video)(video.name, [video.frames[0]] * 4, [video.masks[0]] * 4)
    truth, _ = read_mask(video.masks[0])
    for found in propagate_masks(backbone, still, Propagation(radius=2), 64):
        assert (found == truth).mean() > 0.9


def test_means_are_over_objects_in_percent():
    good, bad = Statistics(0.9, 1.0, 0.1), Statistics(0.3, 0.5, 0.3)
    metrics = overall([ObjectScore("a_1", good, bad), ObjectScore("a_2", good, good), ObjectScore("b_1", bad, bad)])
    assert metrics["J_mean"] == pytest.approx(70) and metrics["F_mean"] == pytest.approx(50)
    assert metrics["JF_mean"] == pytest.approx(60)
    assert metrics["J_recall"] == pytest.approx(250 / 3) and metrics["F_decay"] == pytest.approx(70 / 3)


def test_what_cannot_be_followed(video, backbone, tmp_path):
    wide = type(video)("wide", video.frames, [tmp_path / "wide.png"] * 5)
    write_mask(tmp_path / "wide.png", np.ones((64, 100), np.uint8), davis_palette())
    with pytest.raises(UserError, match="must agree"):
        list(propagate_masks(backbone, wide, Propagation(), 64))
    write_mask(tmp_path / "wide.png", np.zeros((64, 96), np.uint8), davis_palette())
    with pytest.raises(UserError, match="has no object"):
        list(propagate_masks(backbone, wide, Propagation(), 64))
