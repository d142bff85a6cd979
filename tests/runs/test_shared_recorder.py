"""The processes of a job share one recorder, whichever starts and ends first."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from ranks import assert_true
from waiting import wait_for

from joulelab.recording.trace import read_trace


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_ranks_that_start_together_share_a_recorder_that_ends_with_the_last(start, tmp_path):
    ranks = [start(rank, directory=str(tmp_path / "trace")) for rank in range(4)]
    first = [rank.answer() for rank in ranks]
    (recorder,) = {one["recorder"] for one in first}
    assert all(one["joined"] and not one["failure"] for one in first)
    for rank in ranks:
        rank.send("span epoch 0.4")
    for rank in ranks:
        assert_true(rank.answer())
    for rank in ranks[:3]:
        assert rank.end() == {"alive": True, "failure": "", "spans": 1}
    assert psutil.pid_exists(recorder)
    assert_true(ranks[3].ask("span last 0.4"))
    ranks[3].end()
    wait_for(lambda: gone(recorder))
    (place,) = {one["directory"] for one in first}
    trace = read_trace(tmp_path / "trace" / os.uname().nodename / "0")
    assert place.endswith("/0")
    pids = {span.key[0] for span in trace.spans if span.name == "epoch"}
    assert pids == {rank.pid for rank in ranks}
    assert {e["launch"].rank for e in trace.events if e["event"] == "joined"} == {0, 1, 2, 3}


@pytest.mark.parametrize("killed", ["starter", "joiner"])
def test_killing_a_rank_does_not_disturb_the_others(start, tmp_path, killed):
    first, second = start(0, directory=str(tmp_path)), None
    begun = first.answer()
    second = start(1, directory=str(tmp_path))
    assert second.answer()["recorder"] == begun["recorder"]
    victim, other = (first, second) if killed == "starter" else (second, first)
    other.send("span epoch 0.7")
    victim.kill()
    assert_true(other.answer())
    assert_true(other.ask("span after 0.4"))
    assert other.end()["alive"]
    wait_for(lambda: gone(begun["recorder"]))
    events = read_trace(tmp_path / os.uname().nodename / "0").events
    assert next(e["pid"] for e in events if e["event"] == "left") == victim.pid


def test_two_jobs_on_one_host_have_a_recorder_each(start):
    jobs = [start(0, job="a"), start(0, job="b"), start(1, job="a")]
    a, b, a_too = (one.answer()["recorder"] for one in jobs)
    assert a == a_too != b


def test_ranks_that_measure_something_else_have_another_recorder(start):
    ranks = [start(0), start(1, sensors=["simulated"]), start(2, sensors=["simulated"])]
    first, second, third = (rank.answer()["recorder"] for rank in ranks)
    assert first != second == third


def test_a_killed_job_can_be_started_again(start, tmp_path):
    ranks = [start(rank, directory=str(tmp_path)) for rank in range(2)]
    (old, _) = [rank.answer()["recorder"] for rank in ranks]
    for rank in ranks:
        rank.kill()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: gone(old))
    again = [start(rank, directory=str(tmp_path)) for rank in range(2)]
    found = [rank.answer() for rank in again]
    assert {one["directory"] for one in found} == {str(tmp_path / os.uname().nodename / "1")}
    assert found[0]["recorder"] == found[1]["recorder"] != old
    assert_true(again[1].ask("span epoch 0.4"))


def test_a_temporary_trace_is_removed_with_the_last_rank(start):
    ranks = [start(rank) for rank in range(2)]
    (place,) = {rank.answer()["directory"] for rank in ranks}
    ranks[0].end()
    assert Path(place).exists()
    ranks[1].kill()
    wait_for(lambda: not Path(place).exists())


def test_a_recorder_that_does_not_answer_delays_no_rank_for_long(start):
    first = start(0)
    recorder = first.answer()["recorder"]
    os.kill(recorder, signal.SIGSTOP)
    try:
        second = start(1)
        found = second.answer()
        assert found["recorder"] != recorder
        assert found["alive"]
        assert_true(second.ask("span epoch 0.4"))
    finally:
        os.kill(recorder, signal.SIGCONT)


def test_the_death_of_a_recorder_is_reported_on_every_rank_and_stops_none(start):
    ranks = [start(rank) for rank in range(2)]
    (recorder, _) = [rank.answer()["recorder"] for rank in ranks]
    os.kill(recorder, signal.SIGKILL)
    wait_for(lambda: gone(recorder))
    for rank in ranks:
        found = rank.ask("span epoch 0.1")
        assert found["gross_j"] == {}
        assert "the recorder ended early" in rank.end()["failure"]


def test_the_directory_of_another_user_is_not_trusted(start, private):
    private.mkdir(mode=0o700)
    private.chmod(0o777)
    rank = start(0, environment={"TMPDIR": str(private.parent)})
    found = rank.answer()
    # It uses the temporary directory.
    assert found["joined"]
    assert not list(private.iterdir())
