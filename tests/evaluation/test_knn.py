import math

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.errors import UserError
from pretrain.evaluation.feature_pictures import normalised
from pretrain.evaluation.knn import LabelledFolder, central_square, extract_features, knn_accuracy
from pretrain.models.vit import VisionTransformer


def clusters(per_class: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Five planted clusters in 12 dimensions, far apart; lengths differ and mean nothing."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(5).repeat(per_class)
    features = torch.eye(12)[labels] + 0.1 * torch.randn(len(labels), 12, generator=g)
    return features * (1 + 9 * torch.rand(len(labels), 1, generator=g)), labels


def test_planted_clusters_are_found_without_a_mistake():
    train, labels = clusters(30, seed=0)
    val, val_labels = clusters(10, seed=1)
    assert knn_accuracy(train, labels, val, val_labels) == 1
    assert knn_accuracy(train, labels.roll(1), val, val_labels) == 0  # every cluster under its neighbour's name
    assert knn_accuracy(train[:3], labels[:3], val, val_labels, k=20) == pytest.approx(3 / 5)  # fewer than k


def test_the_vote_is_the_formula_written_out():
    g = torch.Generator().manual_seed(3)
    train, val = torch.randn(40, 6, generator=g), torch.randn(25, 6, generator=g)
    labels, val_labels = torch.randint(0, 3, (40,), generator=g), torch.randint(0, 3, (25,), generator=g)
    right = 0
    for feature, label in zip(val.double(), val_labels, strict=True):
        cosines = [(feature @ t / feature.norm() / t.norm()).item() for t in train.double()]
        nearest = sorted(range(40), key=lambda i: -cosines[i])[:7]
        votes = [sum(math.exp(cosines[i] / 0.2) for i in nearest if labels[i] == c) for c in range(3)]
        right += votes.index(max(votes)) == label
    assert knn_accuracy(train, labels, val, val_labels, k=7, temperature=0.2) == pytest.approx(right / 25)
    assert 0 < right < 25


def test_one_near_neighbour_outvotes_two_far_ones_where_the_temperature_is_low():
    train = torch.tensor([[1.0, 0.1], [0.5, 1.0], [0.5, -1.0]])
    labels, val = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(train, labels, val, torch.tensor([0])) == 1
    assert knn_accuracy(train, labels, val, torch.tensor([1]), temperature=10.0) == 1


def write(folder, name: str, value: int, size=(40, 60)) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(-20, 20, (*size, 3))
    Image.fromarray((value + noise).clip(0, 255).astype(np.uint8)).save(folder / name)


def test_sub_folders_are_the_classes(tmp_path):
    for name in ("train/b/1.png", "train/a/deep/2.png", "val/b/3.png"):
        write(tmp_path, name, 100)
    train = LabelledFolder(tmp_path / "train")
    assert train.classes == ["a", "b"] and train.labels.tolist() == [0, 1]
    assert LabelledFolder(tmp_path / "val", train.classes).labels.tolist() == [1]
    with pytest.raises(UserError, match="only one class"):
        LabelledFolder(tmp_path / "val")
    write(tmp_path, "val/c/4.png", 100)
    with pytest.raises(UserError, match="class c is not among"):
        LabelledFolder(tmp_path / "val", train.classes)
    write(tmp_path, "val/5.png", 100)
    with pytest.raises(UserError, match="5.png lies in no sub-folder"):
        LabelledFolder(tmp_path / "val")


def test_features_are_the_trunks_own_and_broken_images_are_left_out(tmp_path):
    for index in range(5):
        write(tmp_path, f"{'dark' if index % 2 else 'light'}/{index}.png", 40 if index % 2 else 200)
    (tmp_path / "dark" / "0.png").write_bytes(b"not an image")
    folder = LabelledFolder(tmp_path)
    trunk = VisionTransformer(patch_size=8, embed_dim=16, depth=1, num_heads=2, field_size=4).eval()
    rng = torch.get_rng_state()
    features, labels = extract_features(trunk, folder, range(len(folder)), image_size=32, batch_size=4)
    assert torch.equal(rng, torch.get_rng_state())
    assert labels.tolist() == [0, 0, 1, 1, 1] and features.shape == (5, 16)
    with torch.no_grad():
        expected, _ = trunk(normalised(central_square(folder.load(2), 32), 8)[None])
    torch.testing.assert_close(features[1], expected[0])
    bare = VisionTransformer(patch_size=8, embed_dim=16, depth=1, num_heads=2, field_size=4, class_token=False).eval()
    features, _ = extract_features(bare, folder, [2], image_size=32)
    with torch.no_grad():
        torch.testing.assert_close(
            features[0], bare(normalised(central_square(folder.load(2), 32), 8)[None])[1].mean(1)[0]
        )


@pytest.mark.parametrize("size", [(80, 120), (33, 21), (64, 64)])
def test_the_square_is_the_middle_of_the_image(size):
    ramp = np.zeros((*size, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 250, size[0])[:, None]
    ramp[..., 1] = np.linspace(0, 250, size[1])[None]
    square = central_square(ramp, 56).astype(float)
    assert square.shape == (56, 56, 3)
    np.testing.assert_allclose(square[..., :2].mean((0, 1)), 125, atol=3)
    short = int(np.argmin(size))
    assert square[..., short].max() - square[..., short].min() == pytest.approx(250 * 7 / 8, abs=25)
