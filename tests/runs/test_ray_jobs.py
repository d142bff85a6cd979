"""Meters in the actors of a Ray job share a recorder on their host."""

import gc
import sys
import time
import types

import pytest

import joulelab
from joulelab.recording.launcher import current_launch
from joulelab.runs.hosts import gather


def test_a_job_is_identified_by_ray_whatever_started_ray(monkeypatch):
    context = types.SimpleNamespace(gcs_address="10.0.0.1:6379", get_job_id=lambda: "01000000")
    ray = types.SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0"), ("SLURM_NTASKS", "2")):
        monkeypatch.setenv(name, value)
    found = current_launch()
    assert (found.launcher, found.job, found.rank) == ("ray", "10.0.0.1:6379 01000000", None)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace())
    assert current_launch().launcher == "slurm"


# Ray 2.55 and older leave files and processes to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_actors_share_one_recorder(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Ray 2.55 and older warn otherwise.
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)

        @ray.remote
        class Trainer:
            def __init__(self):
                self.meter = joulelab.Meter(sensors=["simulated"], directory=tmp_path / "job")

            def train(self):
                with self.meter.span("epoch"):
                    time.sleep(0.3)
                return self.meter.recorder_pid

            def end(self):
                self.meter.close()

        trainers = [Trainer.remote() for _ in range(2)]
        recorders = ray.get([trainer.train.remote() for trainer in trainers])
        ray.get([trainer.end.remote() for trainer in trainers])
    finally:
        ray.shutdown()
        gc.collect()
    assert len(set(recorders)) == 1
    job = gather(tmp_path / "job")
    assert len(job.recordings) == 1
    assert len(job.recordings[0].spans) == 2
    assert job.energy("epoch").duration_s < 2 * 0.3 + 0.3
