"""The detector's configs: they load, they hold the paper's recipe, and the models they describe can be built."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_writers
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage, JSONWriter

from cropfield import CropFieldViT
from cropfield.recipe import precision
from cropfield.run import make_writers
from cropfield.trainer import DetectionTrainer

CONFIGS = Path(__file__).parents[2] / "configs" / "COCO"
COCO_IMAGES = 118000
FAMILY = ("mask_rcnn", "cascade_mask_rcnn", "faster_rcnn")
NAMES = sorted(path.stem for path in CONFIGS.glob("*_cropfield_*.py"))


@cache
def loaded(name: str):
    return LazyConfig.load(str(CONFIGS / f"{name}.py"))


def load(name: str):
    return deepcopy(loaded(name))


def one_object(side: int = 64, masks: bool = True) -> dict:
    """An image with one object on half of it, as Detectron2's mapper gives it."""
    target = Instances((side, side), gt_boxes=Boxes([[8.0, 8, side / 2, side / 2]]), gt_classes=torch.tensor([3]))
    if masks:
        target.gt_masks = BitMasks(torch.ones(1, side, side, dtype=torch.bool))
    return {"image": torch.randint(0, 255, (3, side, side)), "height": side, "width": side, "instances": target}


def test_the_whole_family_is_there():
    recipe = {f"{kind}_cropfield_vit{size}_{epochs}ep" for kind in FAMILY for size in "sb" for epochs in (12, 50)}
    assert set(NAMES) == recipe | {"mask_rcnn_cropfield_tiny"}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_detectron2s_keys_and_fits_the_machine(name):
    cfg = load(name)
    assert {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= cfg.keys()
    assert cfg.train.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert cfg.train.amp.enabled == torch.cuda.is_available()


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("size, lr, width", [("s", 1e-4, 384), ("b", 3e-4, 768)])
def test_the_papers_recipe(kind, size, lr, width):
    cfg = load(f"{kind}_cropfield_vit{size}_12ep")
    assert cfg.train.max_iter == 22128 and cfg.dataloader.train.total_batch_size == 64
    assert list(cfg.lr_multiplier.scheduler.milestones) == [19667, 21306]
    assert cfg.optimizer.lr == lr and cfg.optimizer.weight_decay == 0.1
    net = cfg.model.backbone.net
    assert (net.embed_dim, net.depth, net.num_heads, net.patch_size) == (width, 12, width // 64, 16)
    assert not {"window_size", "use_rel_pos"} & net.keys()


@pytest.mark.parametrize("depth", [6, 12, 24])
@pytest.mark.parametrize("name", ["mask_rcnn_cropfield_tiny", "cascade_mask_rcnn_cropfield_vitb_12ep"])
def test_layer_wise_decay_follows_the_depth(name, depth):
    cfg = LazyConfig.apply_overrides(load(name), [f"model.backbone.net.depth={depth}"])
    factor = instantiate(cfg.optimizer.params.lr_factor_func)
    rate = cfg.optimizer.params.lr_factor_func.rate
    assert factor("roi_heads.box_head.fc1.weight") == factor("backbone.net.norm.weight") == 1
    assert factor("backbone.net.patch_embed.proj.weight") == pytest.approx(rate ** (depth + 1))
    for block in range(depth):
        assert factor(f"backbone.net.blocks.{block}.norm1.weight") == pytest.approx(rate ** (depth - block))


@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_steps_where_it_should(name):
    cfg = load(name)
    factor = instantiate(cfg.lr_multiplier)
    last = cfg.train.max_iter
    assert factor(0) < 0.01
    for count, milestone in enumerate(cfg.lr_multiplier.scheduler.milestones):
        assert factor((milestone - 1) / last) == pytest.approx(0.1**count)
        assert factor((milestone + 1) / last) == pytest.approx(0.1 ** (count + 1))


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("size", "sb")
def test_50_epochs_are_12_stretched(kind, size):
    short, long = (load(f"{kind}_cropfield_vit{size}_{epochs}ep") for epochs in (12, 50))
    assert long.model.backbone == short.model.backbone and long.model.roi_heads.keys() == short.model.roi_heads.keys()
    assert short.train.max_iter * 64 / COCO_IMAGES == pytest.approx(12, abs=0.01)
    assert long.train.max_iter * 64 / COCO_IMAGES == pytest.approx(50, abs=0.01)
    for a, b in zip(short.lr_multiplier.scheduler.milestones, long.lr_multiplier.scheduler.milestones, strict=True):
        assert a / short.train.max_iter == pytest.approx(b / long.train.max_iter, abs=1e-4)
    assert long.optimizer.lr == short.optimizer.lr


def test_the_small_recipe_builds_with_its_parameter_groups():
    cfg = load("mask_rcnn_cropfield_vits_12ep")
    cfg.model.backbone.net.depth = 1
    model = instantiate(cfg.model)
    assert isinstance(model.backbone.net, CropFieldViT) and model.roi_heads.num_classes == 80
    assert [f for f in model.backbone.output_shape()] == ["p2", "p3", "p4", "p5", "p6"]
    cfg.optimizer.params.model = model
    decay = {id(p): g["weight_decay"] for g in instantiate(cfg.optimizer).param_groups for p in g["params"]}
    by_name = {name: decay[id(p)] for name, p in model.named_parameters()}
    free = {"backbone.net.pos_embed", "backbone.net.blocks.0.ls1.gamma", "backbone.net.blocks.0.norm1.weight"}
    assert all(by_name[name] == 0 for name in free)
    assert by_name["backbone.net.blocks.0.attn.qkv.weight"] == 0.1


@pytest.mark.parametrize("kind, heads, masks", [("cascade_mask_rcnn", 3, True), ("faster_rcnn", 1, False)])
def test_the_other_members_build(kind, heads, masks):
    cfg = load(f"{kind}_cropfield_vits_12ep")
    cfg.model.backbone.net.depth = 1
    model = instantiate(cfg.model)
    predictor = model.roi_heads.box_predictor
    assert (len(predictor) if isinstance(predictor, torch.nn.ModuleList) else 1) == heads
    assert model.roi_heads.mask_on == masks == instantiate(cfg.dataloader.train.mapper.use_instance_mask)
    assert ("segm" in instantiate(cfg.dataloader.evaluator.tasks)) == masks


def test_the_tiny_model_is_tiny():
    cfg = load("mask_rcnn_cropfield_tiny")
    model = instantiate(cfg.model)
    assert type(model) is GeneralizedRCNN
    assert sum(p.numel() for p in model.parameters()) < 6e6
    strides = {name: shape.stride for name, shape in model.backbone.output_shape().items()}
    assert [strides[level] for level in cfg.model.proposal_generator.in_features] == list(
        cfg.model.proposal_generator.anchor_generator.strides
    )


def test_mixed_precision_is_for_training_only():
    cfg = load("mask_rcnn_cropfield_tiny")
    cfg.train.amp.cpu = True
    model = instantiate(cfg.model)
    dtypes, images = [], [one_object()]
    model.backbone.net.blocks[0].mlp.fc1.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    DetectionTrainer(model, [images], torch.optim.SGD(model.parameters(), 1e-3), precision=precision(cfg)).train(0, 1)
    with torch.no_grad():
        scores = model.eval()(images)[0]["instances"].scores
    assert dtypes == [torch.bfloat16, torch.float32] and scores.dtype == torch.float32


@pytest.mark.parametrize(
    "device, enabled, cpu, expected",
    [
        ("cpu", False, True, torch.bfloat16),
        ("cpu", False, False, None),
        ("cuda", True, True, torch.float16),
        ("cuda", False, True, None),
    ],
)
def test_the_precision_is_the_devices(device, enabled, cpu, expected):
    cfg = load("mask_rcnn_cropfield_tiny")
    cfg.train.device, cfg.train.amp = device, dict(enabled=enabled, dtype="float16", cpu=cpu)
    assert precision(cfg) == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds_on_the_meta_device(name):
    with torch.device("meta"):
        model = instantiate(load(name).model)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_config_trains_two_steps(name):
    cfg = load(name)
    cfg.model.backbone.net.update(depth=1, embed_dim=48, num_heads=2)
    cfg.model.backbone.square_pad = 64
    cfg.model.proposal_generator.post_nms_topk = (16, 16)
    cfg.model.roi_heads.batch_size_per_image = 8
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    before = [value.clone() for value in model.parameters()]
    images = [one_object(masks=model.roi_heads.mask_on)]
    for _ in range(2):
        with EventStorage():
            losses = model(images)
        assert all(torch.isfinite(loss) for loss in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    moved = {
        name: not torch.equal(value, old) for (name, value), old in zip(model.named_parameters(), before, strict=True)
    }
    assert all(moved.values()), moved


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_backbone_is_not_in_the_optimizer(name):
    cfg = LazyConfig.apply_overrides(load(name), ["train.freeze_backbone=True"])
    with torch.device("meta"):
        model = cfg.optimizer.params.model = instantiate(cfg.model)
    trained = {id(p) for group in instantiate(cfg.optimizer.params) for p in group["params"]}
    left_out = {name for name, p in model.named_parameters() if id(p) not in trained}
    assert left_out == {f"backbone.net.{name}" for name, _ in model.backbone.net.named_parameters()}


@pytest.mark.parametrize("name", ["mask_rcnn_cropfield_tiny", "faster_rcnn_cropfield_vits_12ep"])
def test_beside_a_frozen_backbone_the_rest_learns_the_same(name):
    """Gradients are those beside a backbone in eval mode that could learn."""
    cfg = LazyConfig.apply_overrides(load(name), ["train.freeze_backbone=True", "train.device=cpu"])
    cfg.model.backbone.net.update(depth=1, embed_dim=48, num_heads=2, drop_path_rate=0.9)
    cfg.model.backbone.square_pad = 64
    cfg.model.proposal_generator.post_nms_topk = (16, 16)
    cfg.model.roi_heads.batch_size_per_image = 8
    torch.manual_seed(0)
    frozen = instantiate(cfg.model).train()
    cfg.train.freeze_backbone = False
    free = instantiate(cfg.model).train()
    free.load_state_dict(frozen.state_dict())
    free.backbone.net.eval()
    sample = one_object(masks=frozen.roi_heads.mask_on)
    for model in (frozen, free):
        torch.manual_seed(1)
        with EventStorage():
            sum(model([sample]).values()).backward()
    for (key, mine), theirs in zip(frozen.named_parameters(), free.parameters(), strict=True):
        if key.startswith("backbone.net."):
            assert mine.grad is None and theirs.grad is not None, key
        else:
            assert torch.equal(mine.grad, theirs.grad), key


def test_the_config_names_the_writers(tmp_path):
    cfg = load("mask_rcnn_cropfield_tiny")
    cfg.train.output_dir = str(tmp_path)
    assert [type(writer) for writer in make_writers(cfg)] == [type(writer) for writer in default_writers(str(tmp_path))]
    cfg.train.writers = [cfg.train.writers[1]]
    (writer,) = make_writers(cfg)
    assert isinstance(writer, JSONWriter)
    del cfg.train.writers  # as in another project's config
    assert len(make_writers(cfg)) == 3
