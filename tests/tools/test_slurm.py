import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Stand-ins for a cluster: srun runs its command here, as the second of two machines; scontrol notes what it is told.
SRUN = '#!/bin/sh\nshift\nSLURM_NODEID=1 exec "$@"\n'
SCONTROL = '#!/bin/sh\nif [ "$1" = show ]; then echo node7; echo node8; else echo "$@" >> "$CALLED"; fi\n'
PYTHON = '#!/bin/sh\nfor word in "$@"; do echo "$word"; done > "$COMMAND"\nexit $CODE\n'


@pytest.mark.parametrize("code,requeued", [(75, "requeue 4711\n"), (0, ""), (2, "")])
def test_the_job_goes_back_into_the_queue_when_it_was_stopped_and_only_then(code, requeued, tmp_path):
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": PYTHON}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    called, command = tmp_path / "called", tmp_path / "command"
    called.touch()
    slurm = dict(SLURM_JOB_NODELIST="node[7-8]", SLURM_NNODES="2", SLURM_JOB_ID="4711", SLURM_GPUS_ON_NODE="4")
    stand_ins = dict(CALLED=str(called), COMMAND=str(command), CODE=str(code), PYTHON=str(tmp_path / "python"))
    environment = {**os.environ, **slurm, **stand_ins, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ["bash", "tools/slurm/pretrain.sbatch", "a config.py", "train.output_dir=a b"]
    assert subprocess.run(script, env=environment, cwd=REPOSITORY).returncode == code
    assert called.read_text() == requeued
    assert command.read_text().splitlines() == [
        "tools/pretrain_net.py", "--config-file", "a config.py", "--resume", "--num-gpus", "4", "--num-machines", "2",
        "--machine-rank", "1", "--dist-url", "tcp://node7:24711", "train.output_dir=a b",
    ]  # fmt: skip
