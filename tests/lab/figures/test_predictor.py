"""What a predictor makes of places: figures with known answers, and the pictures' geometry."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fvcore.common.param_scheduler import LinearParamScheduler

from lab.figures.field_pictures import cell_at
from lab.figures.predictor_pictures import masked_image, positions_picture, predictions_picture
from lab.figures.predictor_stats import (
    nearness,
    noise_of_positions,
    position_similarity,
    prediction_similarity,
    target_block,
)
from pretrain.models.vit import VisionTransformer
from stop.jepa import JEPA
from stop.predictor import Predictor


def make_method(noise_std: float = 0.0) -> JEPA:
    torch.manual_seed(0)
    backbone = VisionTransformer(
        8, 32, 2, 2, field_size=(6, 6), class_token=False, field_init="sincos", layer_scale=None
    )
    predictor = Predictor(32, 16, 1, 2, field_size=(6, 6), noise_std=noise_std)
    return JEPA(backbone, predictor, LinearParamScheduler(0.996, 1.0), max_iter=10).eval().requires_grad_(False)


def test_without_noise_a_place_is_most_like_itself():
    predictor = make_method(0.25).predictor
    for query in ((0.1, 0.1), (0.9, 0.3), (0.5, 0.99)):
        cosines = position_similarity(predictor, query, noise=False)[0]
        assert cosines[cell_at(query, (6, 6))] == pytest.approx(1.0, abs=1e-5)
        assert (cosines > 1 - 1e-3).sum() == 1


def test_noise_carries_places_away_the_further_the_more_of_it():
    found = []
    for sigma in (0.0, 5.0, 500.0):
        torch.manual_seed(1)
        found.append(noise_of_positions(make_method(sigma).predictor, draws=200))
    assert found[0] == pytest.approx({"cosine": 1, "displacement": 0})
    assert 0 < found[1]["displacement"] < found[2]["displacement"] and 1 > found[1]["cosine"] > found[2]["cosine"]
    # Noise alone forgets the place: what is left is a distance of two places, one of them anywhere on 6 x 6.
    assert found[2]["displacement"] == pytest.approx(3.0, abs=0.6) and found[2]["cosine"] == pytest.approx(0, abs=0.05)


def test_the_mean_of_many_draws_is_the_place_itself():
    predictor = make_method(0.25).predictor
    cosines = position_similarity(predictor, (0.5, 0.5), draws=500).mean(0)
    assert divmod(cosines.argmax().item(), 6) == cell_at((0.5, 0.5), (6, 6))


@pytest.mark.parametrize("query", [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.3, 0.9)])
def test_a_block_lies_around_its_query_and_the_context_is_the_rest(query):
    block, context, place = target_block((6, 9), query)
    row, column = cell_at(query, (6, 9))
    assert block.shape == (3, 3)  # 0.175 of 54 patches
    assert block.flatten()[place] == row * 9 + column
    assert sorted([*block.flatten().tolist(), *context.tolist()]) == list(range(54))


def test_a_perfect_prediction_is_most_like_the_patch_it_is_of(monkeypatch):
    method, image, query = make_method(), torch.randn(3, 48, 48), (0.7, 0.2)
    monkeypatch.setattr(
        JEPA, "predict", lambda self, images, context, blocks: 3 * self.targets(images, blocks)
    )  # the length of a prediction does not matter
    cosines = prediction_similarity(method, image, query)
    assert cosines.shape == (6, 6) and cosines[cell_at(query, (6, 6))] == pytest.approx(1.0, abs=1e-5)
    features = F.normalize(F.layer_norm(method.teacher_features(image[None])[0], (32,)), dim=-1)
    torch.testing.assert_close(cosines.flatten(), features @ features[1 * 6 + 4])


def test_nearness_is_one_for_minus_the_distance_and_none_for_what_ignores_it():
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    distance = ((rows - 2) ** 2 + (columns - 5) ** 2).float().sqrt()
    query = (5.5 / 8, 2.5 / 8)
    assert nearness(3 - 0.1 * distance, query) == pytest.approx(1.0, abs=1e-5)
    assert nearness(distance, query) == pytest.approx(-1.0, abs=1e-5)
    assert abs(nearness(((rows + columns) % 2).float(), query)) < 0.1


def test_what_is_predicted_is_black_but_for_the_outlined_patch():
    image = np.full((48, 48, 3), 120, np.uint8)
    masked = masked_image(image, (6, 6), (0.5, 0.5))
    assert (masked[:16] == 120).all() and (masked[40:] == 120).all()
    inside = masked[16:40, 16:40]
    assert set(np.unique(inside)) == {0, 255}
    ys, xs = np.nonzero(inside[..., 0])
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (8, 15, 8, 15)  # the patch in the middle of three
    assert (image == 120).all()


def test_pictures_have_a_row_for_each_query_and_columns_for_each_run():
    methods = {"ijepa": make_method(), "stop": make_method(0.25)}
    fields = positions_picture({name: method.predictor for name, method in methods.items()}, side=60, draws=4)
    assert fields.shape == (16 + 20 + 4 * (8 + 80), 16 + 5 * 60 + 4 * 8, 3)
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    found = predictions_picture(
        [(image, (0.2, 0.2)), (image, (0.8, 0.5))], {name: list(torch.rand(2, 6, 6)) for name in methods}, side=60
    )
    assert found.shape == (16 + 20 + 2 * (8 + 80), 16 + 3 * 60 + 2 * 8, 3)
