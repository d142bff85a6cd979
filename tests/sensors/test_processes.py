"""The job's processes and their CPU time, on made-up tables whose truth is known."""

import os
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.sensors.processes import JobProcesses, Process, read_processes

ROOT = 100


def process(pid, parent, *, group=1, session=1, own_s=0.0, children_s=0.0, started=None):
    return Process(pid, f"p{pid}", parent, group, session, own_s, children_s, started or pid, 2**20)


def table(*processes):
    return {one.pid: one for one in processes}


INIT = process(1, 0)


def test_descendants_belong_to_the_job_and_other_processes_do_not():
    job = JobProcesses()
    job.update(
        table(INIT, process(ROOT, 1), process(101, ROOT), process(102, 101), process(103, 1)),
        [ROOT],
    )
    assert set(job.members) == {ROOT, 101, 102}


def test_a_daemon_still_belongs_to_the_job_when_its_parent_ends():
    job = JobProcesses()
    job.update(table(INIT, process(ROOT, 1), process(101, ROOT), process(102, 101)), [ROOT])
    job.update(table(INIT, process(ROOT, 1), process(102, 1, session=102)), [ROOT])
    assert set(job.members) == {ROOT, 102}


@pytest.mark.parametrize("led", [{"group": ROOT}, {"session": 101}])
def test_an_orphan_in_a_group_or_session_of_the_job_belongs_to_it(led):
    job = JobProcesses()
    job.update(table(INIT, process(ROOT, 1), process(101, ROOT, session=101)), [ROOT])
    job.update(table(INIT, process(ROOT, 1), process(105, 1, **led)), [ROOT])
    assert set(job.members) == {ROOT, 105}


def test_a_group_that_the_job_did_not_create_does_not_count():
    job = JobProcesses()
    job.update(table(INIT, process(ROOT, 1, group=90), process(95, 1, group=90)), [ROOT])
    job.update(table(INIT, process(ROOT, 1, group=90), process(105, 1, group=90)), [ROOT])
    assert set(job.members) == {ROOT}


def test_an_orphan_is_recognised_by_its_environment_which_is_read_once():
    checked = []

    def is_marked(one):
        checked.append(one.pid)
        return one.pid == 105

    job = JobProcesses(is_marked)
    older = process(50, 1)
    scan = table(INIT, older, process(ROOT, 1), process(105, 1), process(106, 1))
    for _ in range(3):
        job.update(scan, [ROOT])
    assert set(job.members) == {ROOT, 105}
    assert 50 not in checked, "it was there before the job"
    assert checked.count(106) == 1


def test_a_reused_pid_is_another_process():
    job = JobProcesses()
    job.update(table(INIT, process(ROOT, 1), process(101, ROOT, own_s=5.0)), [ROOT])
    used_s = job.update(
        table(INIT, process(ROOT, 1, children_s=5.5), process(101, 1, own_s=3.0, started=900)),
        [ROOT],
    )
    assert set(job.members) == {ROOT}
    assert used_s == pytest.approx(0.5)


def test_a_process_between_two_scans_is_counted_by_the_parent_that_waited():
    job = JobProcesses()
    job.update(table(INIT, process(ROOT, 1)), [ROOT])
    assert job.update(table(INIT, process(ROOT, 1, children_s=2.0)), [ROOT]) == 2.0


def test_cpu_time_before_a_process_joined_does_not_count():
    job = JobProcesses()
    job.update(table(INIT, process(ROOT, 1), process(200, 1, own_s=50.0)), [ROOT])
    used_s = job.update(table(INIT, process(ROOT, 1), process(200, 1, own_s=50.5)), [ROOT, 200])
    assert used_s == pytest.approx(0.5)


def test_a_job_continues_when_its_first_process_ends():
    job = JobProcesses()
    job.update(table(INIT, process(ROOT, 1), process(101, ROOT, own_s=1.0)), [ROOT])
    assert job.update(table(INIT, process(101, 1, own_s=2.0)), []) == pytest.approx(1.0)
    assert set(job.members) == {101}


@dataclass
class World:
    """Processes that start, work and end; the parent waits for each immediately."""

    alive: dict = field(default_factory=lambda: {ROOT: process(ROOT, 1)})
    used_s: float = 0.0
    next_pid: int = ROOT + 1

    def fork(self, pid):
        self.alive[self.next_pid] = process(self.next_pid, pid)
        self.next_pid += 1

    def work(self, pid):
        one = self.alive[pid]
        self.alive[pid] = one._replace(own_s=one.own_s + 0.25)
        self.used_s += 0.25

    def end(self, pid):
        if pid == ROOT or any(one.parent == pid for one in self.alive.values()):
            return
        gone = self.alive.pop(pid)
        parent = self.alive[gone.parent]
        waited_s = parent.children_s + gone.own_s + gone.children_s
        self.alive[gone.parent] = parent._replace(children_s=waited_s)


@given(st.lists(st.tuples(st.sampled_from(["fork", "work", "end", "scan"]), st.integers(0, 50))))
def test_all_work_is_counted_once_however_processes_start_and_end(steps):
    world, job = World(), JobProcesses()
    counted_s = job.update(dict(world.alive), [ROOT])
    for what, number in steps:
        if what == "scan":
            counted_s += job.update(dict(world.alive), [ROOT])
        else:
            getattr(world, what)(sorted(world.alive)[number % len(world.alive)])
    counted_s += job.update(dict(world.alive), [ROOT])
    assert counted_s == pytest.approx(world.used_s)


def test_processes_that_are_given_as_idle_are_not_read_unless_they_are_gone():
    own, gone = process(os.getpid(), 1), process(2**22 + 1, 1)
    found = read_processes(idle=table(own, gone))
    assert found[own.pid] is own
    assert gone.pid not in found
