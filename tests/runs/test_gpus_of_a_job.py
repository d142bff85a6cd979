"""Which GPUs belong to a job, on a host with three, with a real recorder on a stand-in NVML."""

import os
from pathlib import Path

import pytest
from ranks import assert_close

STAND_INS = Path(__file__).parents[1] / "sensors"
SITE = """
import pynvml
from fake_nvml import FakeNvml
from faulty_world import LiveGpu, POWER_MW
pynvml.nvmlLib = FakeNvml([LiveGpu(f"GPU-{i}", power_mw=POWER_MW) for i in range(3)])
"""
POWER_W = 200.0


@pytest.fixture
def rank(start, tmp_path):
    site, faults = tmp_path / "site", tmp_path / "faults"
    site.mkdir()
    faults.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    always = {
        "PYTHONPATH": os.pathsep.join((str(site), str(STAND_INS))),
        "FAULTS": str(faults),
        "JOULELAB_HOME": str(tmp_path / "home"),
    }

    def rank(number, visible=None, **further):
        chosen = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        one = start(number, sensors=["gpu"], environment=always | chosen | further)
        assert one.answer()["joined"]
        return one

    return rank


def test_the_gpus_of_a_job_are_those_that_its_ranks_may_use(rank):
    first, second = rank(0, "0"), rank(1, "GPU-2")
    for one in (first, second):
        found = one.ask("span epoch 0.4")
        duration_s = (found["stop_ns"] - found["start_ns"]) * 1e-9
        assert set(found["gross_j"]) == {"gpu:0", "gpu:2"}
        for component, gross_j in found["gross_j"].items():
            assert_close(gross_j, POWER_W * duration_s, found["uncertainty_j"][component])
        assert found["absent"]["gpu:1"] == "not used by this job"


def test_of_gpus_that_all_ranks_may_use_those_with_a_context_count(rank):
    first, second = rank(0), rank(1, "2,1,0")
    assert set(first.ask("span early 0.1")["gross_j"]) == {"gpu:0", "gpu:1", "gpu:2"}
    first.ask("cuda 0 0 1 2")
    # The second has reported none, and may still use any.
    assert set(first.ask("span epoch 0.1")["gross_j"]) == {"gpu:0", "gpu:1", "gpu:2"}
    second.ask("cuda 1 2 1 0")
    assert set(second.ask("span epoch 0.1")["gross_j"]) == {"gpu:0", "gpu:1"}
    second.kill()
    assert set(first.ask("span after 0.1")["gross_j"]) == {"gpu:0", "gpu:1"}


def test_a_gpu_that_the_recorder_does_not_see_is_reported(rank):
    first, second = rank(0, "0"), rank(1, "0")
    first.ask("cuda 0 0")
    second.ask("cuda 0 5")
    second.ask("span epoch 0.1")
    found = first.ask("span epoch 0.1")
    assert set(found["gross_j"]) == {"gpu:0"}
    assert "used by rank 1, but invisible to the recorder" in found["absent"]["gpu:5"]


def test_fewer_gpus_than_slurm_allocated_are_reported(rank):
    found = rank(0, "0", SLURM_GPUS_ON_NODE="4").ask("span epoch 0.1")
    assert set(found["gross_j"]) == {"gpu:0"}
    assert "has 4 GPUs on this host, but the recorder sees only 3" in found["absent"]["gpu:unseen"]
