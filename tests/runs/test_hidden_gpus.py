"""GPUs that control groups hide from the first rank are read by the rank that sees them."""

import os
from pathlib import Path

import pytest
from ranks import assert_close
from waiting import wait_for

from joulelab.runs.hosts import gather

STAND_INS = Path(__file__).parents[1] / "sensors"
SITE = """
import pynvml
from fake_nvml import FakeNvml
from faulty_world import LiveGpu, POWER_MW
pynvml.nvmlLib = FakeNvml([LiveGpu(uuid, power_mw=POWER_MW) for uuid in {uuids}])
"""
POWER_W = 200.0


@pytest.fixture
def rank(start, tmp_path):
    """Start a rank that sees only some GPUs, of two that Slurm gave the job."""
    faults = tmp_path / "faults"
    faults.mkdir()

    def rank(number, *uuids):
        site = tmp_path / f"site-{number}"
        site.mkdir()
        (site / "sitecustomize.py").write_text(SITE.format(uuids=uuids))
        environment = {
            "PYTHONPATH": os.pathsep.join((str(site), str(STAND_INS))),
            "FAULTS": str(faults),
            "JOULELAB_HOME": str(tmp_path / "home"),
            "SLURM_GPUS_ON_NODE": "2",
            "JOULELAB_HOST": "n1",
        }
        options = {"sensors": ["gpu"], "directory": str(tmp_path / "job")}
        one = start(number, world_size=3, environment=environment, **options)
        assert one.answer()["joined"]
        return one

    return rank


def test_each_gpu_counts_once_whichever_rank_sees_it(rank, tmp_path):
    ranks = [rank(0, "GPU-a"), rank(1, "GPU-b"), rank(2, "GPU-a", "GPU-b")]
    span = ranks[0].ask("span epoch 0.6")
    for one in ranks:
        one.end()
    job = gather(tmp_path / "job")
    assert [one.gpus for one in job.recordings] == [("GPU-a",), ("GPU-b",)]
    assert [one.complements for one in job.recordings] == [False, True]
    energy = job.energy("epoch")
    assert set(energy.components) == {"gpu:0@n1", "gpu:1@n1"}
    assert energy.absent == {}
    duration_s = (span["stop_ns"] - span["start_ns"]) * 1e-9
    for part in energy.components.values():
        assert_close(part.gross_j, POWER_W * duration_s, part.uncertainty_j)
    assert set(job.total.components) == set(energy.components)


def test_a_gpu_that_no_rank_sees_stays_absent(rank, tmp_path):
    ranks = [rank(0, "GPU-a"), rank(1, "GPU-a")]
    ranks[0].ask("span epoch 0.1")
    for one in ranks:
        one.end()
    job = gather(tmp_path / "job")
    assert len(job.recordings) == 1
    assert "has 2 GPUs on this host" in job.energy("epoch").absent["gpu:unseen@n1"]


def test_the_recorder_of_hidden_gpus_ends_with_its_ranks(rank, tmp_path):
    first, second = rank(0, "GPU-a"), rank(1, "GPU-b")
    first.end()
    second.kill()
    found = gather(tmp_path / "job").recordings[1]
    assert found.gpus == ("GPU-b",)

    def has_stopped():
        recordings = gather(tmp_path / "job").recordings
        return all(any(e["event"] == "stop" for e in one.trace.events) for one in recordings)

    wait_for(has_stopped)
