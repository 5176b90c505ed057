"""Attacks on YAML configs: each is refused in a sentence, and nothing that they name is run."""

import importlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pretrain.engine import yaml_config
from pretrain.engine.lazy_config import load_config, make
from pretrain.engine.saved_config import as_yaml
from pretrain.engine.targets import TARGETS
from pretrain.engine.yaml_config import nodes, plain_part, read_config
from pretrain.errors import UserError

VIT = "pretrain.models.vit.VisionTransformer"
NINE = "x,x,x,x,x,x,x,x,x"
UNREADABLE = {
    "call": "x: !!python/object/apply:os.system ['touch PWNED']",
    "new": "!!python/object/new:os.system ['touch PWNED']",
    "name": "x: !!python/name:os.system",
    "module": "x: !!python/module:os",
    "circle": "a: &a [*a]",
    "circle of dicts": "a: &a {b: *a}",
    "deep": "a: " + "[" * 1_100,
    "environment": "a: ${oc.env:HOME}",
    "environment with spaces": "a: '${ oc.env : HOME }'",
    "decoder": "a: ${oc.decode:'{}'}",
    "doubling text": "a: ${b}${b}\nb: ${c}${c}\nc: x",
    "interpolated interpolation": "a: ${${b}}\nb: c",
    "list": "[1, 2]",
    "number": "3",
    "digits": "a: " + "9" * 5_000,
    "two documents": "a: 1\n---\nb: 2",
    "same key": "a: 1\na: 2",
    "null key": "null: 1",
    "key of a list": "? [1]\n: 2",
    "null character": "a: \0",
    "set": "a: !!set {b}",
    "unknown alias": "a: *b",
    "large": "a: '" + "x" * 300_000 + "'",
}
UNRESOLVED = {
    "itself": "model: ${model}",
    "within itself": "model:\n  a: ${model}",
    "ring": "model: ${a}\na: ${b}\nb: ${model}",
    "nothing": "model: ${nowhere}",
    "missing": "model: ???",
    "absent": "other: 1",
}
GROWING = {  # to some thousand values: where nothing stops them a test fails, and does not hang
    "lists": f"a0: &a0 [{NINE}]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 4)),
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 4)),
    "references": "model: {x: '${a0}', y: '${a0}'}\n"
    + "".join(f"a{i}: {{x: '${{a{i + 1}}}', y: '${{a{i + 1}}}'}}\n" for i in range(9))
    + "a9: 1\n",
}
TARGETS_OF_ATTACKS = [
    *"""
os.system posix.system os.popen subprocess.Popen subprocess.run builtins.exec builtins.eval exec builtins.__import__
importlib.import_module runpy.run_path pickle.loads cloudpickle.loads torch.load torch.hub.load ctypes.CDLL
torch.utils.cpp_extension.load shutil.rmtree pathlib.Path.unlink functools.partial hydra.utils.call
detectron2.config.LazyConfig.load detectron2.config.instantiate detectron2.utils.registry.locate
detectron2.checkpoint.DetectionCheckpointer detectron2.data.datasets.load_coco_json
pretrain.files.os.system pretrain.files.write_text pretrain.files.torch.load pretrain.files.remove_drafts
pretrain.engine.run.pretrain pretrain.models.vit.torch.hub.load
pretrain.models.vit.VisionTransformer.__init__.__globals__ pretrain.models.vit.VisionTransformer.__class__
""".split(),
    *(f" {VIT}", f"{VIT} ", VIT.upper(), f"{VIT}\n", "", None, 3, [VIT], {"_target_": VIT}, "${t}"),
]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes a config.yaml, in a folder where an attack's file would be seen."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("config.yaml").write_text(text, encoding="utf-8")
        return Path("config.yaml")

    yield write
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_more_than_plain_values_is_refused(config, name):
    with pytest.raises(UserError, match="cannot be read as the config") as caught:
        read_config(config(UNREADABLE[name]))
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    with pytest.raises(UserError):
        load_config(config(UNREADABLE[name]), [])


@pytest.mark.parametrize("name", UNRESOLVED)
def test_references_that_lead_nowhere_or_grow_are_refused(config, name):
    path = config(UNRESOLVED[name])
    with pytest.raises(UserError, match="model"):
        plain_part(read_config(path), "model", {VIT}, path)


@pytest.mark.parametrize("name", GROWING)
def test_what_grows_by_being_written_out_is_counted_first(config, monkeypatch, name):
    monkeypatch.setattr(yaml_config, "MAX_VALUES", 500)
    path = config(GROWING[name])
    with pytest.raises(UserError, match="has more than 500 values, (aliases|references) written out"):
        plain_part(read_config(path), "model", {VIT}, path)


@pytest.mark.parametrize("target", TARGETS_OF_ATTACKS, ids=str)
@pytest.mark.parametrize("hide", [lambda c: c, lambda c: {"a": [{"b": c}]}, lambda c: {"_target_": VIT, "depth": c}])
def test_a_target_that_is_not_listed_is_refused_wherever_it_hides(config, target, hide):
    call = {"_target_": target, "command": "touch PWNED"}
    path = config(OmegaConf.to_yaml(OmegaConf.create({"model": hide(call), "t": "os.system"})))
    with pytest.raises(UserError, match="not on the list"):
        plain_part(read_config(path), "model", {VIT}, path)
    with pytest.raises(UserError, match="not on the list"):
        load_config(path, [])


def test_a_reference_does_not_hide_a_target(config):
    path = config("model: {a: '${x}'}\nx: {_target_: os.system, command: touch PWNED}")
    with pytest.raises(UserError, match="model.a asks for os.system"):
        plain_part(read_config(path), "model", {VIT}, path)


def test_references_are_written_out():
    cfg = OmegaConf.create({"a": {"b": [1, "${c.d}", "${.0}"], "e": "${c}"}, "c": {"d": "x"}})
    assert plain_part(cfg, "a", (), "here") == {"b": [1, "x", 1], "e": {"d": "x"}}
    assert dict(nodes({"a": [{"b": 1}]})) == {"": {"a": [{"b": 1}]}, "a": [{"b": 1}], "a.0": {"b": 1}, "a.0.b": 1}


def test_what_a_part_refuses_names_it():
    with pytest.raises(UserError, match="^a.yaml: model: .*depht.*; damaged$"):
        make({"_target_": VIT, "depht": 1}, "a.yaml: model", "damaged")
    assert make({"_target_": VIT, "embed_dim": 24, "depth": 1, "num_heads": 2}, "model", "").embed_dim == 24


def test_a_config_that_a_run_saved_can_be_given_again(tmp_path):
    cfg = load_config("configs/pretrain/cropfield_tiny.py", ["train.seed=7"])
    (tmp_path / "config.yaml").write_text(as_yaml(cfg))
    again = load_config(tmp_path / "config.yaml", ["model.backbone.depth=3"])
    assert again.train.seed == again.dataloader.train.seed == 7 and again.model.backbone.depth == 3
    again.optimizer.params.model = object()  # as a run does


def test_every_target_on_the_list_is_there():
    for name in TARGETS:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute)), name


def test_every_target_of_a_config_is_on_the_list():
    files = [*Path("configs").rglob("*tiny*.py"), *Path("projects").glob("*/configs/**/*tiny*.py")]
    assert len(files) > 5
    for file in files:
        cfg = OmegaConf.to_container(load_config(file, []), resolve=False)
        for key, node in nodes(cfg):
            if isinstance(node, dict) and "_target_" in node:
                assert name_of(node["_target_"]) in TARGETS, f"{file}: {key}: add it to pretrain/engine/targets.py"


def name_of(target) -> str:
    from detectron2.utils.registry import _convert_target_to_string

    return target if isinstance(target, str) else _convert_target_to_string(target)
