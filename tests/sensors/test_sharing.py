"""Use by a job and by other processes: real ones, whose CPU time is known."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import fake_nvml
import numpy as np
import pytest

from joulelab.energy.attribution import Attribution, other_processes
from joulelab.recording.trace import Trace
from joulelab.sensors import sharing
from joulelab.sensors.discovery import discover
from joulelab.sensors.gpu_processes import GpuUse
from joulelab.sensors.processes import Process, read_processes
from joulelab.sensors.sensor import Discovery, Gap, Quantity, Reading, SensorEvent
from joulelab.sensors.sharing import SharingSensor, with_sharing

MARK = b"JOULELAB_RECORDING=/nowhere/of-this-test"
BURN = """
import os, sys, time

def burn(cpu_s):
    end_s = time.process_time() + cpu_s
    while time.process_time() < end_s:
        pass
"""
JOB = (
    BURN
    + """
def child(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return pid

def with_grandchild():
    grandchild = child(lambda: burn(0.2))
    burn(0.2)
    os.waitpid(grandchild, 0)

def daemon():
    burn(0.3)
    print("done", flush=True)
    time.sleep(600)

def leave():
    os.setsid()
    print(child(daemon), flush=True)

sys.stdin.readline()
os.waitpid(child(leave), 0)  # no scan falls between its start and its end
os.waitpid(child(with_grandchild), 0)
os.waitpid(child(lambda: burn(0.1)), 0)
print("done", flush=True)
sys.stdin.readline()
"""
)
JOB_S = 0.3 + 0.2 + 0.2 + 0.1
OTHER = BURN + "burn(0.5)\nprint('done', flush=True)\nsys.stdin.readline()"


@pytest.fixture
def start():
    """Starts Python programs that end with the test."""
    started = []

    def start(code, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def host_sensor(*roots, **more):
    """A sensor of processors and memory; no process is the recorder."""
    return SharingSensor(lambda: roots, [], host=True, mark=MARK, recorder_pid=0, **more)


class Clock:
    """Time that passes when a test demands it, and scans of a given cost."""

    def __init__(self, monkeypatch, *, scan_s):
        self._monotonic_ns = 10**9
        self._thread_s = 0.0
        self._scan_s = scan_s
        monkeypatch.setattr(sharing, "time", self)
        monkeypatch.setattr(sharing, "read_processes", self._read_processes)

    def advance(self, duration_s):
        self._monotonic_ns += round(duration_s * 1e9)

    def monotonic_ns(self):
        return self._monotonic_ns

    def thread_time(self):
        return self._thread_s

    def _read_processes(self, *arguments):
        self._thread_s += self._scan_s
        return read_processes(*arguments)


def by_quantity(sensor, found, component):
    """The last reading of each of a component's channels."""
    return {
        sensor.channels[one.channel].quantity: one.value
        for one in found
        if isinstance(one, Reading) and sensor.channels[one.channel].component == component
    }


def test_descendants_daemons_and_short_processes_belong_to_the_job(start, monkeypatch):
    monkeypatch.setattr(sharing, "CPU_SHARE", 1.0)
    name, value = MARK.decode().split("=")
    job = start(JOB, **{name: value})
    sensor = host_sensor(job.pid)
    sensor.read()
    job.stdin.write("go\n")
    job.stdin.flush()
    daemon = int(job.stdout.readline())
    other = start(OTHER)
    assert [job.stdout.readline(), job.stdout.readline()] == ["done\n"] * 2
    assert other.stdout.readline() == "done\n"
    try:
        found = sensor.read()
    finally:
        os.kill(daemon, 9)
    cpu = by_quantity(sensor, found, "cpu")
    # Each of the five may be off by what the kernel rounds away, and takes something to fork.
    assert cpu[Quantity.JOB_USE] == pytest.approx(JOB_S, abs=0.1)
    assert cpu[Quantity.USE] >= cpu[Quantity.JOB_USE] + 0.5
    (report,) = (one for one in found if isinstance(one, SensorEvent))
    assert other.pid in [pid for pid, _, _ in report.fields["used"]]
    assert not {job.pid, daemon, os.getpid()} & {pid for pid, _, _ in report.fields["used"]}
    memory = by_quantity(sensor, found, "dram")
    assert 0 < memory[Quantity.JOB_USE] < memory[Quantity.USE]


class Table:
    """The processes of a machine, whose CPU time a test sets, and which of them were read."""

    def __init__(self, monkeypatch, *pids):
        self.used_s = dict.fromkeys(pids, 1.0)
        self.busy_s = 100.0
        self.read = []
        monkeypatch.setattr(sharing, "read_processes", self._read_processes)
        monkeypatch.setattr(sharing, "busy_s", lambda _: self.busy_s)

    def run(self, pid, cpu_s):
        self.used_s[pid] += cpu_s
        self.busy_s += cpu_s

    def _read_processes(self, _, idle):
        self.read.append(self.used_s.keys() - idle.keys())
        return {
            pid: idle.get(pid) or Process(pid, f"program{pid}", 1, pid, pid, used_s, 0.0, 5, 0)
            for pid, used_s in self.used_s.items()
        }


def test_idle_processes_of_others_are_read_rarely_and_the_jobs_always(monkeypatch):
    clock, table = Clock(monkeypatch, scan_s=0.0), Table(monkeypatch, *range(10, 30))
    sensor = host_sensor(10)
    for _ in range(2 + sharing.IDLE_SCANS):
        clock.advance(1.0)
        assert scans(sensor)
    assert table.read[:2] == [table.used_s.keys()] * 2
    rest = table.read[2:]
    assert all(10 in pids for pids in rest)
    assert sorted(pid for pids in rest for pid in pids - {10}) == list(range(11, 30))
    table.used_s[30] = 0.0
    clock.advance(1.0)
    assert scans(sensor)
    assert 30 in table.read[-1], "a new process is read"


@pytest.mark.parametrize("busy_pid", range(11, 15))
def test_work_of_a_process_that_was_idle_is_named_late_and_counted_once(monkeypatch, busy_pid):
    clock, table = Clock(monkeypatch, scan_s=0.0), Table(monkeypatch, *range(10, 15))
    sensor = host_sensor(10)
    found = []
    for second in range(20):
        if second >= 8:
            table.run(10, 0.5)
            table.run(busy_pid, 1.5)
        found += sensor.read()
        clock.advance(1.0)
    cpu = by_quantity(sensor, found, "cpu")
    assert cpu[Quantity.JOB_USE] == pytest.approx(12 * 0.5)
    assert cpu[Quantity.USE] == pytest.approx(12 * 2.0)
    reports = [one for one in found if isinstance(one, SensorEvent)]
    named = [one for one in reports if busy_pid in [pid for pid, _, _ in one.fields["used"]]]
    assert named[0].t_ns < (1 + 8 + sharing.IDLE_SCANS) * 1e9


def test_a_gpu_is_shared_with_another_process(start, monkeypatch):
    monkeypatch.setattr(sharing, "CPU_SHARE", 1.0)
    monkeypatch.setattr(sharing, "LEAST_APART_NS", 0)
    job, other = (start("import sys; sys.stdin.readline()") for _ in range(2))
    board = fake_nvml.FakeGpu("GPU-1", processes=(job.pid, other.pid))
    fake_nvml.install(monkeypatch, fake_nvml.FakeNvml([board]))
    gpu = GpuUse("gpu:0", "GPU-1")
    sensor = SharingSensor(lambda: [job.pid], [gpu], host=False, mark=MARK, recorder_pid=0)
    begin_ns = time.monotonic_ns()
    found = sensor.read()
    for _ in range(3):
        time.sleep(0.05)
        now_us = time.time_ns() // 1000
        board.used = [(job.pid, now_us, 60), (other.pid, now_us, 20)]
        found += sensor.read()
    events = [one for one in found if isinstance(one, SensorEvent)]
    trace = Trace.of(sensor.channels, [one for one in found if not isinstance(one, SensorEvent)])
    shares = Attribution(
        replace(trace, events=[{**one.fields, "t_ns": one.t_ns} for one in events])
    )
    times_s = np.array([[begin_ns, time.monotonic_ns()]]) * 1e-9
    (share,) = shares.shares("gpu:0", times_s)
    assert share.fraction == pytest.approx(0.75)
    assert share.low < 0.75 < share.high
    assert f"(pid {other.pid})" in shares.note("gpu:0", share)
    assert f"(pid {job.pid})" not in shares.note("gpu:0", share)
    sensor.close()


@pytest.mark.parametrize("unsupported", [(), ("nvmlDeviceGetProcessUtilization",)])
def test_a_process_that_holds_a_gpu_is_named_at_once_and_not_as_a_user(
    start, monkeypatch, unsupported
):
    monkeypatch.setattr(sharing, "CPU_SHARE", 1.0)
    monkeypatch.setattr(sharing, "LEAST_APART_NS", 0)
    job, other = (start("import sys; sys.stdin.readline()") for _ in range(2))
    board = fake_nvml.FakeGpu("GPU-1", processes=(other.pid,), unsupported={*unsupported})
    fake_nvml.install(monkeypatch, fake_nvml.FakeNvml([board]))
    gpus = [GpuUse("gpu:0", "GPU-1")]
    sensor = SharingSensor(lambda: [job.pid], gpus, host=False, mark=MARK, recorder_pid=0)
    found = [*sensor.read(), *sensor.read()]
    sensor.close()
    events = [{**one.fields, "t_ns": one.t_ns} for one in found if isinstance(one, SensorEvent)]
    trace = Trace.of(sensor.channels, [one for one in found if not isinstance(one, SensorEvent)])
    trace = replace(trace, events=events)
    (name,) = other_processes(trace, worked=False)["gpu:0"].names
    assert f"(pid {other.pid})" in name
    assert other_processes(trace) == {}


def test_names_are_recorded_and_never_arguments(start):
    secret = start("import sys; sys.stdin.readline()", SECRET="s3cret")
    seen = read_processes()[secret.pid]
    assert seen.name.startswith("python")
    assert "sys.stdin" not in repr(seen)


def test_a_costly_scan_is_not_repeated_soon(monkeypatch):
    monkeypatch.setattr(sharing, "CPU_SHARE", 1e-9)
    sensor = host_sensor(os.getpid())
    assert sensor.read()
    assert sensor.read(), "the second follows immediately: it is the first with a result"
    assert sensor.read() == []


def scans(sensor):
    """Read a sensor; whether that scanned all processes, not just the job's files."""
    return any(isinstance(one, Reading) and one.channel == 0 for one in sensor.read())


def test_requested_scans_come_on_credit(monkeypatch):
    clock = Clock(monkeypatch, scan_s=0.02)
    sensor = host_sensor(os.getpid())
    sensor.read()
    clock.advance(1.0)
    sensor.read()
    done = 0
    for _ in range(200):
        clock.advance(1.0)
        sensor.request()
        done += scans(sensor)
    rate = sharing.CPU_SHARE / 0.02
    assert 200 * rate < done <= 200 * rate + sharing.CREDIT_S / 0.02 + 1
    clock.advance(0.02 / sharing.CPU_SHARE)
    assert not scans(sensor), "the credit is paid back first"
    clock.advance(sharing.CREDIT_S / sharing.CPU_SHARE)
    assert scans(sensor)


@pytest.mark.parametrize("requested", [True, False])
def test_scans_are_no_closer_than_kernel_ticks_resolve(monkeypatch, requested):
    clock = Clock(monkeypatch, scan_s=0.0)
    sensor = host_sensor(os.getpid())
    found = []
    for after_s in (0.0, 0.01, 0.24, 0.02):
        clock.advance(after_s)
        if requested:
            sensor.request()
        found.append(scans(sensor))
    assert found == [True, True, False, True], "the second may follow immediately"


def test_a_longer_time_between_scans_is_reported_once(monkeypatch):
    clock = Clock(monkeypatch, scan_s=0.02)
    sensor = host_sensor(os.getpid())
    reports = []
    for _ in range(5):
        reports += [one.fields for one in sensor.read() if isinstance(one, SensorEvent)]
        clock.advance(60.0)
    reports = [fields for fields in reports if fields["event"] == "looks"]
    assert reports == [
        {"event": "looks", "pace_s": pytest.approx(0.02 / sharing.CPU_SHARE, rel=0.01)}
    ]


def test_the_use_of_an_invisible_job_is_unknown():
    sensor = host_sensor()
    found = sensor.read()
    assert len(found) == len(sensor.channels)
    assert {one.reason for one in found} == {sharing.NOT_SEEN}


def test_without_readable_processes_there_are_gaps(tmp_path):
    sensor = host_sensor(1, proc=tmp_path / "nothing")
    assert all(isinstance(one, Gap) for one in sensor.read())


def test_pids_of_another_namespace_are_refused(tmp_path):
    (tmp_path / "self").symlink_to("1")
    found = host_sensor(1, proc=tmp_path).read()
    assert "another namespace" in {one.reason for one in found}.pop()


def test_only_real_sensors_get_a_sharing_sensor(tmp_path):
    simulated = discover(["simulated"])
    assert with_sharing(simulated, list, tmp_path) == simulated
    real = discover(["cpu"])
    added = with_sharing(real, list, tmp_path).sensors[len(real.sensors) :]
    assert [type(one) for one in added] == [SharingSensor]
    assert with_sharing(Discovery((), ()), list, tmp_path).sensors == ()
