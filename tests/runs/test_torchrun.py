"""Real torchrun with gloo on the CPU, and a simulated machine with two GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import MACHINE, WITHOUT, assert_close

from joulelab.energy.estimator import energy_of_union
from joulelab.energy.window_union import WindowUnion
from joulelab.runs.hosts import gather

RANKS = 2
COMPONENTS = {"gpu:0", "gpu:1", "cpu:0"}


def assert_true(gross_j, uncertainty_j, windows_ns):
    assert set(gross_j) == COMPONENTS
    for component, value_j in gross_j.items():
        truth_j = sum(MACHINE.energy_j(a * 1e-9, b * 1e-9, component) for a, b in windows_ns)
        assert_close(value_j, truth_j, uncertainty_j[component])


def assert_union_is_true(recording, windows):
    """The time of overlapping spans counts once."""
    union = WindowUnion.of(windows)
    energy = energy_of_union(recording.estimator, union)
    parts = energy.components.items()
    assert_true(
        {name: part.gross_j for name, part in parts},
        {name: part.uncertainty_j for name, part in parts},
        union.host.tolist(),
    )
    return energy


@pytest.fixture(scope="module")
def restarted_job(tmp_path_factory):
    """Ranks of DDP; the one that started the recorder is killed, and torchrun restarts all."""
    out, directory = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("job")
    here = Path(__file__).parent
    environment = {name: value for name, value in os.environ.items() if name not in WITHOUT}
    environment |= {
        "JOULELAB_HOME": str(tmp_path_factory.mktemp("home")),
        "XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("runtime")),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        # With a store shared by attempts, gloo would look for the processes of the first one.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1"]
    command += [f"--nproc-per-node={RANKS}", here / "torchrun_training.py", out, directory]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    return ranks, gather(directory)


def test_the_ranks_share_one_recorder(restarted_job):
    ranks, _ = restarted_job
    assert len(ranks) == RANKS
    assert len({rank["recorder"] for rank in ranks}) == 1
    assert all(rank["joined"] and not rank["failure"] for rank in ranks)
    for rank in ranks:
        assert_true(rank["gross_j"], rank["uncertainty_j"], rank["windows_ns"])


def test_the_energy_of_a_job_counts_overlapping_spans_once(restarted_job):
    ranks, job = restarted_job
    assert list(job.hosts) == [os.uname().nodename]
    assert [one.directory.name for one in job.recordings] == ["0", "1"]
    last = job.recordings[1]
    windows = last.windows("epoch")
    assert len(windows) == RANKS * 2
    energy = assert_union_is_true(last, windows)
    of_all_ranks_j = sum(sum(rank["gross_j"].values()) for rank in ranks)
    # How far the ranks' epochs overlap depends on the machine's load; the union above is exact.
    assert energy.gross_j < of_all_ranks_j


def test_killing_a_rank_does_not_lose_the_first_attempt(restarted_job):
    _, job = restarted_job
    first = job.recordings[0]
    assert sorted(launch.rank for launch in first.launches) == list(range(RANKS))
    windows = first.windows("epoch", index=0)
    assert len(windows) == RANKS
    energy = assert_union_is_true(first, windows)
    assert job.missing == ()
    both = job.energy("epoch", index=0)
    assert set(both.components) == {f"{name}@{os.uname().nodename}" for name in COMPONENTS}
    assert both.duration_s > energy.duration_s
