"""What the pipeline's and the demo's commands say; running them takes minutes and is done by `make demo`."""

import runpy
import shlex
import shutil
from pathlib import Path

import pytest

from cropfield.forms import Detection
from cropfield.halves import FIXED, check_chain, naming_half, split_overrides
from pretrain.engine.lazy_config import load_config
from pretrain.errors import UserError

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def pipeline():
    return runpy.run_path(str(TOOLS / "pretrain_then_detect.py"), run_name="imported")


def arguments(pipeline, *more):
    data = [
        "--images",
        "I",
        "--train-json",
        "T.json",
        "--train-images",
        "T",
        "--val-json",
        "V.json",
        "--val-images",
        "V",
    ]
    return pipeline["parse_args"]([*data, "--output", "OUT", *more])


def config_of(stage):
    path, *overrides = stage.command[stage.command.index("--config-file") + 1 :]
    return load_config(path, overrides)


@pytest.mark.parametrize("preset", ["tiny", "vits", "vitb"])
def test_halves_fit_together_in_every_preset(pipeline, preset):
    pretrain, export, detect = pipeline["make_stages"](arguments(pipeline, "--preset", preset))
    first, second = config_of(pretrain), config_of(detect)
    for name in ("patch_size", "embed_dim", "depth", "num_heads", "field_size"):
        assert first.model.backbone[name] == second.model.backbone.net[name]
    assert first.dataloader.train.source.root == "I"
    assert export.command[1] == f"{first.train.output_dir}/last.pth"
    assert export.command[-1] == second.train.init_checkpoint
    assert second.dataset.val_json == "V.json"


def test_another_pretraining_config_of_the_presets_size(pipeline):
    config = str(TOOLS.parent / "projects" / "StoP" / "configs" / "stop_tiny.py")
    stages = pipeline["make_stages"](arguments(pipeline, "--pretrain-config", config))
    assert config_of(stages[0]).model.predictor.noise_std > 0
    pretrain, _, detect = pipeline["make_stages"](arguments(pipeline, "--pretrain-config", config, "--preset", "vits"))
    with pytest.raises(UserError, match="patch_size of the backbone is 8 in pretraining and 16 in the detector"):
        check_chain(pretrain, detect, Path("I"), {})


def test_a_detectors_config_is_no_pretrainings(pipeline):
    config = str(TOOLS.parent / "configs" / "COCO" / "mask_rcnn_cropfield_tiny.py")
    pretrain, _, detect = pipeline["make_stages"](arguments(pipeline, "--pretrain-config", config))
    with pytest.raises(UserError, match="mask_rcnn_cropfield_tiny.py is no pretraining's config"):
        check_chain(pretrain, detect, Path("I"), {})
    pretrain = pipeline["make_stages"](arguments(pipeline))[0]
    with pytest.raises(UserError, match="cropfield_tiny.py is no detector's config; give one, .* configs/COCO"):
        check_chain(pretrain, pretrain, Path("I"), {})


def test_overrides_reach_the_half_that_they_name(pipeline):
    stages = pipeline["make_stages"](arguments(pipeline, "pretrain.train.max_iter=7", "detect.train.max_iter=9"))
    assert config_of(stages[0]).train.max_iter == 7 and config_of(stages[-1]).train.max_iter == 9
    with pytest.raises(UserError, match="start an override with pretrain. or detect. to say"):
        pipeline["make_stages"](arguments(pipeline, "train.max_iter=7"))


@pytest.mark.parametrize(
    "override, words",
    [
        ("pretrain.train.max_itr=5", "no key pretrain.train.max_itr; did you mean pretrain.train.max_iter?"),
        ("detect.trian.max_iter=5", "no key detect.trian.max_iter; did you mean detect.train.max_iter?"),
        ("detect.optimizer.lr=0", "^detect.optimizer.lr is 0; give"),
        ("pretrain.optimizer.lr=-1", "^pretrain.optimizer.lr is -1; give"),
        ("pretrain.model.backbone.in_chans=5", "^in_chans of the backbone is 5 in pretraining and 3 in the detector"),
        ("detect.train.max_iter=[", r"^cannot read the override 'detect.train.max_iter=\[' .*: 'detect.train.max"),
    ],
)
def test_an_error_names_the_key_as_it_was_given(pipeline, override, words):
    pretrain, _, detect = pipeline["make_stages"](arguments(pipeline, override))
    with pytest.raises(UserError, match=words):
        check_chain(pretrain, detect, Path("I"), {})


def test_the_annotated_images_have_the_detectors_limit_of_pixels(pipeline, small_coco):
    data = {f"{split}_{kind}": path for split in ("train", "val")
            for kind, path in (("json", small_coco / "labels.json"), ("images", small_coco))}  # fmt: skip
    pretrain, _, detect = pipeline["make_stages"](arguments(pipeline, "detect.dataset.max_pixels=50"))
    with pytest.raises(UserError, match="dataset.max_pixels"):
        check_chain(pretrain, detect, small_coco, data)


def test_the_output_is_not_among_the_images(pipeline, small_coco, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(small_coco / "0.png", tmp_path / "images")
    data = {f"{split}_{kind}": path for split in ("train", "val")
            for kind, path in (("json", small_coco / "labels.json"), ("images", small_coco))}  # fmt: skip
    args = arguments(pipeline)
    args.output = tmp_path / "images" / "out"
    pretrain, _, detect = pipeline["make_stages"](args)
    with pytest.raises(UserError, match="the output folder .*out/pretrain lies in .*images, all of whose"):
        check_chain(pretrain, detect, tmp_path / "images", data)


@pytest.mark.parametrize("key", FIXED)
def test_keys_that_join_the_stages_are_refused(key):
    with pytest.raises(UserError, match=f"{key} is not to be given here, because {FIXED[key]}"):
        split_overrides(["pretrain.train.max_iter=3", f"{key}=x"])


@pytest.mark.parametrize(
    "node, key",
    [
        ("detect.dataset", "detect.dataset.train_json"),
        ("pretrain.train", "pretrain.train.output_dir"),
        ("pretrain.dataloader", "pretrain.dataloader.train.source.root"),
    ],
)
def test_nor_may_a_whole_node_around_them_be_replaced(node, key):
    with pytest.raises(UserError, match=f"{node} holds {key}, and {FIXED[key]} says what that is"):
        split_overrides([f"{node}={{a: 1}}"])
    split_overrides(["detect.train.ema={enabled: true}"])


def test_predictions_are_of_the_weights_that_were_evaluated(pipeline, tmp_path):
    args = arguments(pipeline)
    args.output = tmp_path
    (tmp_path / "detect").mkdir()
    (tmp_path / "detect" / "model_ema.pth").touch()
    assert f"{tmp_path}/detect/model_ema.pth" in pipeline["next_commands"](args)[1]


def test_the_next_commands_are_of_this_run(pipeline):
    report, predict = pipeline["next_commands"](arguments(pipeline, "pretrain.train.max_iter=3", "detect.model.a=b c"))
    assert shlex.split(report)[1:] == [str(TOOLS / "report.py"), "OUT"]
    words = shlex.split(predict)[2:]
    assert Path(words[1]).is_file() and words[2:] == [
        "--weights", "OUT/detect/model_final.pth", "--output", "OUT/predicted", "model.a=b c", "IMAGES"
    ]  # fmt: skip


def test_files_are_no_keys_and_what_names_none_says_its_half():
    def told(text):
        with pytest.raises(UserError) as error, naming_half("detect", Detection):
            raise UserError(text)
        return str(error.value)

    assert told("model: fails") == "detect.model: fails"
    assert told("model.pth and runs/train.d/x are cut off") == "detect: model.pth and runs/train.d/x are cut off"


def test_the_demos_detectors_differ_only_in_their_initial_weights():
    demo = runpy.run_path(str(TOOLS / "demo.py"), run_name="imported")
    pretrained, untrained, scratch = demo["make_stages"](Path("OUT"), seed=3)[-1]
    for other in (untrained, scratch):
        differing = {a.partition("=")[0] for a, b in zip(pretrained.command, other.command, strict=True) if a != b}
        assert differing == {"train.init_checkpoint", "train.output_dir"}
        assert pretrained.environment == other.environment
    assert config_of(untrained).train.init_checkpoint == "OUT/pretrain/initial.safetensors"
    assert config_of(scratch).train.seed > 0  # else Detectron2 draws one

    (pretrain,) = demo["make_stages"](Path("OUT"), seed=3)[1]
    assert config_of(pretrain).dataloader.train.source.root == "OUT/data/unlabeled"  # never train/ or val/
