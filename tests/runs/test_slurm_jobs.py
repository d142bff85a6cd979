"""Jobs on a real Slurm with two nodes, whose host names are the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, why_not

from joulelab.runs.hosts import gather

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

JOULELAB = str(Path(sys.executable).with_name("joulelab"))
TRAIN = """
import sys, joulelab
with joulelab.Meter(directory=sys.argv[1] if len(sys.argv) > 1 else None) as meter:
    with meter.span("epoch") as epoch:
        pass
    assert epoch.energy.components
    assert meter.joined and not meter.failure
"""
ONE_MACHINE = "n1 and n2 are one machine: what both recorded counts twice"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def call(cluster, tmp_path):
    """Run a program of Slurm in a directory with a training."""
    (tmp_path / "train.py").write_text(TRAIN)
    own = {"JOULELAB_SENSORS": "simulated", "JOULELAB_HOME": str(tmp_path / "home")}

    def call(*command):
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | cluster.environment | own,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    return call


def batch(call, tmp_path, *lines):
    """Run a script on both nodes, and return what it printed."""
    script = ["#!/bin/sh", "#SBATCH -N2 -n2 -o out.txt", *lines]
    (tmp_path / "job.sh").write_text("\n".join(script) + "\n")
    call("sbatch", "--wait", "job.sh")
    return (tmp_path / "out.txt").read_text()


def test_the_meters_of_a_step_are_one_job_on_hosts_with_slurms_names(call, tmp_path):
    call("srun", "-N2", "-n2", sys.executable, "train.py", "job")
    job = gather(tmp_path / "job")
    assert (list(job.hosts), job.ranks) == (["n1", "n2"], (0, 1))
    assert job.missing == ()
    assert job.doubled == (ONE_MACHINE,)
    assert [one.batch_job.hosts for one in job.recordings] == [("n1", "n2")] * 2
    assert len({one.batch_job.id for one in job.recordings}) == 1
    assert {one.batch_job.step for one in job.recordings} == {"0"}
    energy = job.energy("epoch")
    assert {name.partition("@")[2] for name in energy.components} == {"n1", "n2"}


def test_a_measured_command_in_srun_leaves_a_record_for_each_rank(call, tmp_path):
    measured = (JOULELAB, "run", "--wait", "--out", "job", "--")
    done = call("srun", "-N2", "-n2", *measured, sys.executable, "train.py")
    assert "joulelab gather" in done.stderr
    job = gather(tmp_path / "job")
    assert list(job.hosts) == ["n1", "n2"]
    records = [tmp_path / "job" / "n1" / "rank-0", tmp_path / "job" / "n2" / "rank-1"]
    runs = [json.loads((path / "run.json").read_text()) for path in records]
    assert [run["host"] for run in runs] == ["n1", "n2"]
    longest_s = max(run["duration_s"] for run in runs)
    assert job.total.duration_s == pytest.approx(longest_s, abs=0.2)


def test_steps_of_a_measured_script_are_recorded_on_every_host(call, tmp_path):
    srun = f"srun {sys.executable} train.py"
    printed = batch(call, tmp_path, f"{JOULELAB} run --wait --out job -- {srun}")
    assert "one of 2 hosts of Slurm's job" in printed
    job = gather(tmp_path / "job")
    assert (list(job.hosts), job.missing) == (["n1", "n2"], ())
    run = json.loads((tmp_path / "job" / "run.json").read_text())
    assert job.total.duration_s == pytest.approx(run["duration_s"], abs=0.1)
    assert len(job.energy("epoch").components) == 2 * len(run["energy"]["components"])


def test_a_step_started_from_a_measured_shell_on_the_same_machine_joins_it(call, tmp_path):
    srun = ("srun", "-N1", "-n1", sys.executable, "train.py")
    call(JOULELAB, "run", "--wait", "--out", "job", "--", *srun)
    (recording,) = gather(tmp_path / "job").recordings
    assert recording.directory == tmp_path / "job"
    assert len(recording.spans) == 1


def test_a_host_that_only_slurm_knows_is_named(call, tmp_path):
    batch(call, tmp_path, f"{JOULELAB} run --out job -- sleep 0.1")
    (missing,) = gather(tmp_path / "job").missing
    assert missing.startswith("no recording of n2 (2 hosts in Slurm's job ")
