"""Programs join the recorder that $JOULELAB_RECORDING names."""

import os
import shutil
import subprocess
import sys
import tempfile

import psutil
import pytest
from ranks import MACHINE, assert_true, torchrun
from waiting import wait_for

import joulelab
from joulelab.recording.trace import read_trace
from joulelab.runs.hosts import gather
from joulelab.storage import in_use


@pytest.fixture
def owner(private, tmp_path):
    with joulelab.Meter(sensors=MACHINE, directory=tmp_path / "recording") as meter:
        yield meter


def names(directory):
    return [(span.key[0], span.name) for span in read_trace(directory).spans]


def named(directory):
    return {"JOULELAB_RECORDING": str(directory)}


def test_a_process_joins_the_recorder_that_is_named_to_it(start, owner):
    joiner = start(sensors=None, environment=named(owner.directory))
    found = joiner.answer()
    assert found["joined"]
    assert found["recorder"] == owner.recorder_pid
    assert not owner.joined
    assert_true(joiner.ask("span inside 0.3"))
    assert joiner.end()["alive"]
    assert owner.alive
    assert owner.spans == ()
    assert (joiner.pid, "inside") in names(owner.directory)


@pytest.mark.parametrize("has_directory", [False, True])
def test_ranks_of_a_job_join_the_recorder_that_is_named_to_them(
    start, owner, tmp_path, has_directory
):
    own = {"directory": str(tmp_path / "job")} if has_directory else {}
    ranks = [
        start(rank, sensors=None, environment=named(owner.directory), **own) for rank in range(2)
    ]
    assert {rank.answer()["recorder"] for rank in ranks} == {owner.recorder_pid}
    for rank in ranks:
        rank.send("span epoch 0.3")
    for rank in ranks:
        assert_true(rank.answer())
        assert rank.end()["alive"]
    assert not owner.joined
    (recording,) = gather(own.get("directory", owner.directory)).recordings
    assert [span.name for span in recording.spans] == ["epoch", "epoch"]


def test_meters_in_sequence_do_not_mix_up_their_spans(owner, monkeypatch):
    monkeypatch.setenv("JOULELAB_RECORDING", str(owner.directory))
    for name in ("first", "second"):
        with joulelab.measure(name) as span:
            pass
        assert span.energy.gross_j >= 0
    assert {name for _, name in names(owner.directory)} == {"first", "second"}


def test_a_meter_with_its_own_sensors_does_not_join(owner, monkeypatch):
    monkeypatch.setenv("JOULELAB_RECORDING", str(owner.directory))
    with joulelab.Meter(sensors=["simulated"]) as meter:
        assert not meter.joined


def test_a_meter_with_a_directory_joins_and_has_a_record_of_its_own(owner, monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_RECORDING", str(owner.directory))
    with joulelab.Meter(directory=tmp_path / "run") as meter, meter.span("inside") as span:
        assert meter.joined
        assert meter.recorder_pid == owner.recorder_pid
    assert (os.getpid(), "inside") in names(owner.directory)
    saved = joulelab.open_run(tmp_path / "run")
    assert [one.name for one in saved.spans] == ["inside"]
    assert saved.spans[0].gross_j == pytest.approx(span.energy.gross_j)
    assert saved.inside == owner.directory
    with (
        pytest.warns(UserWarning, match="has a recording already; this run is saved in") as warned,
        joulelab.Meter(directory=tmp_path / "run") as meter,
    ):
        assert meter.directory == tmp_path / "run-2"
    assert warned[0].filename == __file__


@pytest.mark.parametrize("left", ["closed", "removed"])
def test_a_missing_recorder_is_reported_once_and_replaced(start, tmp_path, left):
    directory = tmp_path / "recording"
    joulelab.Meter(sensors=MACHINE, directory=directory).close()
    if left == "removed":
        shutil.rmtree(directory)
    simulated = {"JOULELAB_SENSORS": MACHINE.spec()}
    program = start(sensors=None, environment={**named(directory), **simulated})
    found = program.answer()
    assert found["alive"]
    assert not found["joined"]
    assert found["failure"].startswith("did not join, recording on its own instead")
    assert program.ask("span work 0.3")["gross_j"].keys() == {"gpu:0", "gpu:1", "cpu:0"}


def test_a_program_that_starts_before_the_recorder_waits_for_it(start, private, tmp_path):
    directory = tmp_path / "recording"
    directory.mkdir()
    early = start(sensors=None, environment=named(directory))
    wait_for(lambda: psutil.Process(early.pid).num_threads() > 0)
    with joulelab.Meter(sensors=MACHINE, directory=directory) as owner:
        assert early.answer()["recorder"] == owner.recorder_pid


def test_the_end_of_a_recording_is_reported_to_programs_that_joined_it(start, owner):
    joiner = start(sensors=None, environment=named(owner.directory))
    joiner.answer()
    owner.close()
    assert joiner.ask("span after 0.1")["gross_j"] == {}
    assert "the recorder ended early" in joiner.end()["failure"]


def test_a_recording_outlives_its_owner_while_others_are_measured(start, tmp_path):
    owner = start(directory=str(tmp_path))
    recorder = psutil.Process(owner.answer()["recorder"])
    joiner = start(sensors=None, environment=named(tmp_path))
    joiner.answer()
    owner.kill()
    assert joiner.ask("span after 0.3")["gross_j"].keys() == {"gpu:0", "gpu:1", "cpu:0"}
    joiner.end()
    wait_for(lambda: not recorder.is_running())
    assert read_trace(tmp_path).events[-1]["event"] == "stop"


def test_the_recording_of_another_host_is_not_joined(start, owner, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(owner.directory, elsewhere)
    trace = elsewhere / "trace.bin"
    boot_id = read_trace(elsewhere).header["boot_id"].encode()
    trace.write_bytes(trace.read_bytes().replace(boot_id, boot_id[::-1]))
    program = start(0, sensors=None, environment=named(elsewhere) | {"JOULELAB_SENSORS": "host"})
    found = program.answer()
    assert found["joined"]
    assert found["recorder"] != owner.recorder_pid


def test_a_wrapper_joins_and_names_its_directory_to_others(start, owner, tmp_path):
    wrapper = start(
        sensors=None,
        directory=str(tmp_path / "inner"),
        wrapper=True,
        environment=named(owner.directory),
    )
    assert wrapper.answer()["recorder"] == owner.recorder_pid
    program = start(sensors=None, environment=named(tmp_path / "inner"))
    assert program.answer()["recorder"] == owner.recorder_pid
    program.ask("span inside 0.1")
    program.end()
    assert (program.pid, "inside") in names(tmp_path / "inner")


def test_wrappers_of_the_ranks_of_a_job_share_a_recorder(start, tmp_path):
    wrappers = [start(rank, directory=str(tmp_path / str(rank)), wrapper=True) for rank in range(2)]
    (recorder,) = {wrapper.answer()["recorder"] for wrapper in wrappers}
    ranks = [
        start(rank, sensors=None, environment=named(tmp_path / str(rank))) for rank in range(2)
    ]
    assert {rank.answer()["recorder"] for rank in ranks} == {recorder}


def test_a_recorder_without_a_socket_serves_its_own_process(private, monkeypatch):
    shutil.rmtree(private, ignore_errors=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(private.parent))
    monkeypatch.setenv("TMPDIR", str(private.parent))
    for path in (private, private.parent / f"joulelab-{os.getuid()}"):
        path.write_text("in the way")
    with joulelab.Meter(sensors=MACHINE) as meter, meter.span("work") as span:
        pass
    assert meter.alive
    assert span.energy.gross_j >= 0


def test_the_next_recorder_removes_temporary_recordings_of_killed_pairs(private, monkeypatch):
    """Those of living programs stay, and so does what is not a recording."""
    temporary = private.parent / "tmp"
    directories = [temporary / f"joulelab-{name}" for name in ("trace-dead", "trace-alive", "1000")]
    for path in directories:
        path.mkdir(parents=True)
        (path / "trace.bin").touch()
        os.utime(path, (0, 0))
    dead, *others = directories
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    descriptor = in_use(others[0])
    with joulelab.Meter(sensors=["simulated"]) as meter:
        assert meter.directory.parent == temporary
        assert not dead.exists()
        assert all(path.exists() for path in others)
    os.close(descriptor)
    assert sorted(temporary.iterdir()) == sorted(others)


HOSTILE = """
import os, resource, signal, joulelab
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
meter = joulelab.Meter(sensors=["simulated"])
with meter.span("work") as span:
    pass
assert span.energy.gross_j >= 0 and not meter.failure
os.kill(meter.recorder_pid, signal.SIGKILL)
while meter.alive:
    pass
for index in range(30_000):
    with meter.span("step", index=index):
        pass
meter.close()
assert len(meter.spans) == 30_001 and "the recorder ended early" in meter.failure
"""


@pytest.mark.parametrize("job", [{}, torchrun(0, 2, "job")], ids=["alone", "shared"])
def test_the_death_of_a_recorder_does_not_disturb_a_hostile_program(private, job):
    """It has many open files, and a broken pipe would kill it."""
    environment = {**os.environ, **job}
    subprocess.run([sys.executable, "-c", HOSTILE], env=environment, check=True)
