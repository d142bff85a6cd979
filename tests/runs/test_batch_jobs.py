"""Jobs of a batch system: names of hosts and steps, and hosts that left no recording."""

import json
import shutil

import pytest
from test_gather import record

from joulelab.errors import UserError
from joulelab.recording.launcher import BatchJob, current_batch_job, host_name
from joulelab.runs.hosts import add_up, gather

SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]", "SLURMD_NODENAME": "n2"}


@pytest.fixture
def scontrol(tmp_path):
    """A directory with a stand-in for Slurm's ``scontrol show hostnames``."""
    path = tmp_path / "bin" / "scontrol"
    path.parent.mkdir()
    path.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[1-3]" ] && printf "n1\\nn2\\nn3\\n"\n')
    path.chmod(0o755)
    return str(path.parent)


def test_hosts_are_named_as_slurm_names_them(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    assert host_name() == "n2"
    monkeypatch.setenv("JOULELAB_HOST", "other")
    assert host_name() == "other"


def test_a_job_of_slurm(scontrol, monkeypatch):
    monkeypatch.setenv("PATH", scontrol)
    found = current_batch_job(SLURM | {"SLURM_STEP_ID": "0"})
    assert found == BatchJob(id="7", step="0", host="n2", hosts=("n1", "n2", "n3"))
    assert BatchJob(**found.to_json()) == found
    assert current_batch_job(SLURM).step is None


def test_a_list_that_slurm_does_not_expand_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert current_batch_job(SLURM).hosts == ()


def test_a_shell_of_salloc_is_not_on_a_host_of_the_job():
    assert current_batch_job({"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}) is None
    assert current_batch_job({}) is None


def job_of(number, host, step="0"):
    hosts = ("n1", "n2")
    job = BatchJob(id=str(number), step=step, host=host, hosts=hosts)
    return json.loads(json.dumps(job.to_json()))


@pytest.fixture
def two_jobs(tmp_path):
    """Job 7 on both hosts in two steps, and job 8 on one of them."""
    for number, host, step in ((7, "n1", "0"), (7, "n2", "1"), (8, "n1", "0")):
        record(
            tmp_path / f"{number}" / host, host, clock_ns=number * 10**12,
            power_w={"cpu:0": 10.0 * number}, spans=[], ranks=[0], world_size=1,
            job=job_of(number, host, step),
        )  # fmt: skip
    return tmp_path


def test_recordings_are_grouped_by_their_job(two_jobs):
    assert add_up(two_jobs).batch_jobs == {"7": ["0", "1"], "8": ["0"]}
    parts = [gather(two_jobs, batch_job=name) for name in ("7", "8")]
    assert [one.total.gross_j for one in parts] == pytest.approx([2 * 70 * 17, 80 * 17])
    with pytest.raises(UserError, match="there are recordings of 7 and 8"):
        gather(two_jobs, batch_job="9")


def test_hosts_without_a_recording_are_named(two_jobs):
    assert gather(two_jobs).missing == ("no recording of n2 (2 hosts in Slurm's job 8)",)
    shutil.rmtree(two_jobs / "7" / "n1")
    assert gather(two_jobs, batch_job="7").missing == (
        "no recording of n1 (2 hosts in Slurm's job 7)",
    )
