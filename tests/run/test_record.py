"""Records of jobs: read back, worked out of a trace that was cut off, and refused when damaged."""

import json
import math
import time

import pytest

from joulelab import Meter
from joulelab.errors import UserError
from joulelab.machine import describe
from joulelab.runs.job import find_jobs, is_job, read_job


def test_a_finished_job_is_read_back(tmp_path, finished):
    data = finished(tmp_path / "one")
    job = read_job(tmp_path / "one")
    assert is_job(tmp_path / "one")
    assert job.finished
    assert (job.exit_code, job.signal, job.notes) == (3, None, ("a note",))
    assert (job.command, job.project, job.phase) == (("python", "train.py"), "digits", "training")
    assert job.tags == {"seed": "1"}
    assert job.machine == describe()
    assert job.energy.to_json() == data["energy"]
    assert job.energy.gross_j == pytest.approx(200 * job.duration_s, rel=0.02)
    (span,) = job.spans
    assert (span.name, span.count) == ("epoch", 1)
    assert span.gross_j == pytest.approx(200 * span.duration_s, rel=0.02)
    assert math.isnan(span.net_j)
    assert data["spans"][0]["net_j"] is None


def test_a_job_that_was_cut_off_is_worked_out_of_its_trace(tmp_path, started, constant):
    with Meter(sensors=constant, directory=tmp_path / "cut") as meter:
        # A job begins when it is recorded, however long the recorder took to start.
        started(tmp_path / "cut")
        with meter.span("step"):
            time.sleep(0.4)
    job = read_job(tmp_path / "cut")
    assert not job.finished
    assert job.exit_code is None
    assert job.energy.gross_j == pytest.approx(200 * job.duration_s, rel=0.02)
    assert [span.name for span in job.spans] == ["step"]
    assert job.ended_unix_s == job.started_unix_s + job.duration_s


@pytest.mark.parametrize("joined", [None, "/somewhere"])
def test_a_job_without_readings_has_no_energy(tmp_path, joined, started):
    started(tmp_path / "bare", joined=joined)
    job = read_job(tmp_path / "bare")
    assert math.isnan(job.energy.gross_j)
    assert math.isnan(job.duration_s)
    assert job.energy.absent


def test_jobs_are_found_oldest_first_wherever_they_lie(tmp_path, monkeypatch, started):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path))
    assert find_jobs() == []
    for place, started_unix_s in (("jobs/b/c", 3.0), ("jobs/a", 5.0), ("jobs/z", 1.0)):
        started(tmp_path / place, started_unix_s=started_unix_s)
    (tmp_path / "jobs" / "other").mkdir()
    (tmp_path / "jobs" / "other" / "run.json").write_text('{"schema": 1}')
    assert [job.id for job in find_jobs()] == ["z", "c", "a"]
    assert [job.id for job in find_jobs(tmp_path / "jobs" / "b", tmp_path / "jobs" / "a")] == [
        "c",
        "a",
    ]


@pytest.mark.parametrize("content", ['{"schema": "joulelab-job-1"}', '{"schema": "jou', "\xff"])
def test_a_damaged_job_is_told(tmp_path, content, started):
    started(tmp_path / "good")
    started(tmp_path / "bad")
    (tmp_path / "bad" / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.json"):
        find_jobs(tmp_path)
    told = []
    assert [job.id for job in find_jobs(tmp_path, complain=told.append)] == ["good"]
    assert len(told) == 1


def test_what_is_no_job_is_refused(tmp_path):
    assert not is_job(tmp_path)
    assert not is_job(tmp_path / "absent")
    with pytest.raises(UserError, match="is no job"):
        read_job(tmp_path)
    with pytest.raises(UserError, match="no directory"):
        find_jobs(tmp_path / "absent")


def test_a_record_has_no_number_that_json_lacks(tmp_path, finished):
    finished(tmp_path / "one")
    text = (tmp_path / "one" / "run.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
