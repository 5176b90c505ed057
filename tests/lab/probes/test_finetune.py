"""Fine-tuning a backbone as a classifier."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.probes.finetune import Classifier, FineTuning, Recipe, layer_groups
from lab.probes.labelled import labelled_folder
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer

RECIPE = Recipe(epochs=4, batch_size=4, lr=0.05, layer_decay=0.8, warmup_epochs=1, image_size=16)


@pytest.fixture(scope="module")
def images(tmp_path_factory, tiny_datasets):
    root = tmp_path_factory.mktemp("finetune")
    tiny_datasets.write_imagenet(root, tiny_datasets.drawn_pictures(2, train=7, val=3, size=24))
    (root / "train" / "n01440764" / "n01440764_1.JPEG").write_bytes(b"broken")
    train = labelled_folder(root / "train")
    return train, labelled_folder(root / "val", train.classes)


def classifier(class_token: bool = True, drop_path: float = 0.2) -> Classifier:
    torch.manual_seed(0)
    backbone = VisionTransformer(
        8, 16, 2, 2, field_size=2, class_token=class_token, drop_path_rate=drop_path, layer_scale=1.0
    )
    return Classifier(backbone, 2)


def test_rates_fall_from_head_to_embeddings_and_vectors_do_not_decay():
    model = classifier()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: g for g in layer_groups(model, 0.5, 0.05) for p in g["params"]}
    assert len(found) == len(names)
    scales = {"head.weight": 1, "backbone.norm.bias": 1, "backbone.blocks.1.attn.qkv.weight": 0.5}
    scales |= {
        "backbone.blocks.0.mlp.fc1.bias": 0.25,
        "backbone.patch_embed.proj.weight": 0.125,
        "backbone.pos_embed": 0.125,
    }
    assert {name: found[name]["scale"] for name in scales} == scales
    decaying = {name for name, group in found.items() if group["weight_decay"]}
    assert decaying == {name for name in found if name.endswith("weight") and "norm" not in name}


@pytest.mark.parametrize("class_token", [True, False])
def test_the_head_reads_what_stands_for_the_image(class_token):
    model, images = classifier(class_token).eval(), torch.randn(3, 3, 16, 16)
    assert torch.equal(model(images), torch.zeros(3, 2))  # the head starts at 0: no class is favoured
    torch.nn.init.normal_(model.head.weight)
    cls, patches = model.backbone(images)
    torch.testing.assert_close(model(images), (cls if class_token else patches.mean(1)) @ model.head.weight.T)


def test_it_learns_what_it_is_shown(tmp_path, tiny_datasets):
    rng = np.random.default_rng(0)
    pictures = {
        split: {str(level): [rng.integers(level, 160 + level, (24, 30, 3), dtype=np.uint8) for _ in range(8)]}
        | {"noise": [rng.integers(0, 256, (24, 30, 3), dtype=np.uint8) for _ in range(8)]}
        for split, level in (("train", 60), ("val", 60))
    }
    tiny_datasets.write_imagenet(tmp_path, pictures)
    train, val = labelled_folder(tmp_path / "train"), labelled_folder(tmp_path / "val")
    tuning = FineTuning(classifier(drop_path=0.0), train, val, replace(RECIPE, epochs=10, lr=0.3))
    before = tuning.model.backbone.patch_embed.proj.weight.clone()
    assert tuning.evaluate()["top1"] == 50
    assert tuning.run() == {"top1": 100, "top5": 100}
    assert not torch.equal(before, tuning.model.backbone.patch_embed.proj.weight)


def test_broken_images_are_left_out_of_batches_and_figures(images):
    train, _ = images  # its second image is broken
    tuning = FineTuning(classifier(), train, train, RECIPE)
    ((pixels, labels),) = tuning.readable(train)
    assert len(pixels) == len(train) - 1 and torch.equal(labels, train.labels[torch.arange(len(train)) != 1])
    assert tuning.evaluate() == {"top1": pytest.approx(100 * 6 / 13), "top5": 100}  # of 13: the head takes class 0


def test_resumed_equals_uninterrupted_to_the_bit(images, tmp_path):
    whole = FineTuning(classifier(), *images, RECIPE, tmp_path / "whole.pth")
    whole.run()
    first = FineTuning(classifier(), *images, RECIPE, tmp_path / "half.pth")
    train_epoch = first.train_epoch
    first.train_epoch = lambda: train_epoch() if first.epoch < 2 else sys.exit(1)  # killed in the third epoch
    with pytest.raises(SystemExit):
        first.run()
    torch.manual_seed(77)
    second = FineTuning(classifier(), *images, RECIPE, tmp_path / "half.pth")
    second.resume()
    assert second.epoch == 2
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    other = FineTuning(classifier(class_token=False), *images, RECIPE, tmp_path / "half.pth")
    with pytest.raises(UserError, match="half.pth is of another run"):
        other.resume()
    other = FineTuning(classifier(), *images, replace(RECIPE, layer_decay=0.7), tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"half.pth is of another run \(with another layer_decay\)"):
        other.resume()


def test_a_batch_is_no_larger_than_the_dataset_and_the_recipe_says_so(images):
    assert FineTuning(classifier(), *images, replace(RECIPE, batch_size=1024)).recipe.batch_size == len(images[0])


def test_an_epoch_without_an_image_ends_it(tmp_path):
    for name in ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"broken")
    train = labelled_folder(tmp_path)
    with pytest.raises(UserError, match="none of its images can be read"):
        FineTuning(classifier(), train, train, RECIPE).train_epoch()


def test_the_rate_warms_up_and_falls_and_the_batch_sets_it(images):
    tuning = FineTuning(classifier(), *images, RECIPE)
    rates = []
    for progress in (0.0, 0.125, 0.25, 0.625, 1.0):
        tuning.set_lr(progress)
        rates.append(max(group["lr"] for group in tuning.optimizer.param_groups))
    peak = 0.05 * 4 / 256
    assert rates == pytest.approx([0, peak / 2, peak, peak / 2, 0])
    lowest = min(group["lr"] / group["scale"] for group in tuning.optimizer.param_groups)
    assert lowest == max(group["lr"] / group["scale"] for group in tuning.optimizer.param_groups)


def test_a_loss_that_is_not_finite_ends_it(images):
    tuning = FineTuning(classifier(), *images, RECIPE)
    with torch.no_grad():
        tuning.model.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite in epoch 1; choose a smaller --lr"):
        tuning.run()
