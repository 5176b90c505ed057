import numpy as np
import pytest

from lab.compose.photographs import Cutout, Photograph
from lab.compose.scene import Kit, Layout, compose_scene
from pretrain.errors import UserError


def block(height=40, width=40, colour=(250, 10, 10), hole=False):
    rgba = np.full((height, width, 4), 255, np.uint8)
    rgba[..., :3] = colour
    if hole:
        rgba[height // 3 : -height // 3, width // 3 : -width // 3, 3] = 0
    return Cutout("block", rgba)


def kit(*drawables):
    return Kit([[d] for d in drawables], [Photograph("grey", np.full((90, 120, 3), 60, np.uint8))])


def layout(**change):
    return Layout(**(dict(size=64, objects=(3, 6), scale=(0.2, 0.5), rotation=0.0, occlusion=0.4) | change))


@pytest.mark.parametrize("seed", range(5))
def test_a_mask_is_the_pixels_that_show_the_object(seed):
    red, green = block(hole=True), block(colour=(10, 250, 10))
    scene = compose_scene(kit(red, green), layout(), np.random.default_rng(seed))
    image = scene.image.astype(int)
    shown = [image[..., 0] - image[..., 1] > 100, image[..., 1] - image[..., 0] > 100]
    for category in (0, 1):
        of = [m for m, c in zip(scene.masks, scene.categories, strict=True) if c == category]
        together = np.any(of, axis=0) if of else np.zeros_like(shown[0])
        # unlike at most in the half-transparent pixels of an edge
        differ = np.count_nonzero(together != shown[category])
        assert differ <= 0.25 * max(together.sum(), 1)
    assert scene.masks.sum(0).max() <= 1


def test_a_hole_is_not_in_the_mask():
    scene = compose_scene(kit(block(hole=True)), layout(objects=(1, 1), occlusion=0), np.random.default_rng(0))
    rows, columns = np.nonzero(scene.masks[0])
    centre = scene.masks[0][(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2]
    assert scene.masks[0].any() and not centre


def test_no_object_is_hidden_when_occlusion_is_zero():
    plan = layout(occlusion=0.0, scale=(0.25, 0.25), rotation=45)
    for seed in range(10):
        scene = compose_scene(kit(block()), plan, np.random.default_rng(seed))
        areas = scene.masks.sum((1, 2))
        assert (areas >= 0.9 * 16 * 16).all()  # a square of 16 pixels, whole wherever it stands


def test_visible_share_keeps_its_bound():
    plan = layout(occlusion=0.3, scale=(0.4, 0.4), objects=(8, 8))
    areas = [compose_scene(kit(block()), plan, np.random.default_rng(s)).masks.sum((1, 2)) for s in range(10)]
    whole = (0.4 * 64) ** 2
    areas = np.concatenate(areas)
    assert areas.min() >= 0.7 * 0.9 * whole
    assert areas.min() < 0.9 * whole  # some are hidden in part


def test_scale_is_relative_to_the_image():
    plan = layout(objects=(1, 1), scale=(0.5, 0.5), occlusion=0)
    mask = compose_scene(kit(block(30, 60)), plan, np.random.default_rng(1)).masks[0]
    assert mask.any(0).sum() == pytest.approx(32, abs=1)
    assert mask.any(1).sum() == pytest.approx(16, abs=1)


def test_objects_too_large_for_the_image_are_the_users_to_fix():
    with pytest.raises(UserError, match="--scale"):
        compose_scene(kit(block()), layout(scale=(1, 1), rotation=0, occlusion=0), np.random.default_rng(0))
