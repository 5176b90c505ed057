"""What `import cropfield` does and does not do."""

import importlib
import json
import subprocess
import sys

import pytest
from detectron2.modeling import BACKBONE_REGISTRY

import cropfield

PROBE = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import cropfield, cropfield.datasets
ours = [str(w.message) for w in caught if "cropfield" in w.filename or "pretrain" in w.filename]
print(json.dumps({"warnings": ours, "names": cropfield.__all__, "modules": sorted(sys.modules)}))
"""


def test_import_is_quiet_and_stays_in_its_room():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["warnings"] == []
    rooms = {name.split(".")[1] for name in found["modules"] if name.startswith("pretrain.")}
    assert rooms <= {"data", "models", "errors", "files", "openmp", "parent", "ranges"}


def test_the_import_costs_no_more_than_detectron2s():
    """What Detectron2's engine does not import itself, and takes long, comes with the names that need it."""
    code = """
import sys, detectron2.engine
before = set(sys.modules)
import cropfield
print(*{name.split(".")[0] for name in set(sys.modules) - before if "." not in name} - set(sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"cropfield", "pretrain"}


def test_every_public_name_is_where_it_is_said_to_be():
    assert set(cropfield.__all__) <= set(dir(cropfield))
    for name, module in cropfield._MODULES.items():
        assert getattr(cropfield, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="module 'cropfield' has no attribute 'CropFieldVit'"):
        cropfield.CropFieldVit  # noqa: B018
    assert {"build_cropfield_vit_backbone", "build_cropfield_vit_fpn_backbone"} <= {
        name for name, _ in BACKBONE_REGISTRY
    }
