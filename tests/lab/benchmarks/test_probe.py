from lab.benchmarks import probe
from pretrain.models.vit import VisionTransformer


def test_both_ways_train_the_same_classifiers():
    backbone = VisionTransformer(16, 16, 4, 2, field_size=2, layer_scale=1.0).eval()
    result = probe.measure(backbone, 8, 32, num_pairs=1, epochs=2)
    assert result.what["images"] == {"train": 8, "val": 4} and result.what["classifiers"] == 40
    (row,) = result.tables["accuracies of ours and plain"]
    assert row["largest difference, points"] == 0
    assert result.ours > 0 and result.plain > 0
