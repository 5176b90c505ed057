"""What `import cropfield` does and does not do."""

import json
import subprocess
import sys

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
    public = {
        "CropFieldViT",
        "add_cropfield_config",
        "build_cropfield_vit_backbone",
        "build_cropfield_vit_fpn_backbone",
    }
    assert public <= set(found["names"])
    rooms = {name.split(".")[1] for name in found["modules"] if name.startswith("pretrain.")}
    assert rooms <= {"data", "models", "errors", "files", "openmp", "parent", "ranges"}
