"""``joulelab run`` as a shell uses it: real processes, real signals."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from waiting import wait_for

from joulelab.recording.trace_schema import read_header
from joulelab.runs.record import read_run
from joulelab.runs.selection import open_runs
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

JOULELAB = [sys.executable, "-m", "joulelab", "run"]
MACHINE = SimulatedMachine(
    (SimulatedSource(component="gpu:0", waveform=Waveform.constant(200.0), gain_uncertainty=0.05),)
)
READY = "import sys, time; print('ready', flush=True)\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Another home, and a machine of 200 W."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JOULELAB_SENSORS", MACHINE.spec())
    monkeypatch.delenv("JOULELAB_RECORDING", raising=False)
    return tmp_path / "home"


def python(code, *arguments):
    return [sys.executable, "-c", textwrap.dedent(code), *arguments]


def run(*options, command, **keywords):
    """Runs a command to its end under ``joulelab run``."""
    return subprocess.run(
        [*JOULELAB, *options, "--", *command],
        check=False,
        capture_output=True,
        **keywords,
    )


def begin(*options, command, **keywords):
    """Starts a command, and waits until it reports that it is ready."""
    process = subprocess.Popen(
        [*JOULELAB, *options, "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **keywords,
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def the_run():
    (found,) = open_runs()
    return found


def is_seen(least_s):
    """Whether the run under way has been recorded for that long; its files may be half written."""
    runs = open_runs(on_error=lambda error: None)
    return any(run.kind == "command" and run.duration_s > least_s for run in runs)


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_exit_code_is_the_commands(code):
    done = run(command=["sh", "-c", f"exit {code}"])
    assert done.returncode == code
    assert (the_run().exit_code, the_run().signal, the_run().finished) == (code, None, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_it_ends_by_the_signal_that_ended_the_command(number):
    done = run(command=["sh", "-c", f"ulimit -c 0; kill -{int(number)} $$"])
    assert done.returncode == -number
    assert (the_run().exit_code, the_run().signal) == (None, number)
    assert signal.Signals(number).name in done.stderr.decode()


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["no-such-command-here"], 127, "command not found: no-such-command-here"),
        (["/no/such/command"], 127, "command not found"),
        (["/etc"], 126, "cannot run: /etc: Permission denied"),
        ([__file__], 126, "Permission denied"),
    ],
)
def test_a_command_that_cannot_be_started_ends_as_in_a_shell(command, code, words, home):
    done = run(command=command)
    assert done.returncode == code
    assert words in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert not list((home / "runs").iterdir())
    assert run("--out", str(home), command=command).returncode == 2
    (home / "runs").rmdir()
    assert run("--out", str(home), command=command).returncode == code
    assert home.is_dir()


def test_a_script_that_names_no_interpreter_is_run_by_the_shell(tmp_path):
    script = tmp_path / "script"
    script.write_text("echo $0 $1\n")
    script.chmod(0o755)
    assert run(command=[str(script), "x y"]).stdout == f"{script} x y\n".encode()


def test_the_command_gets_everything_that_the_wrapper_was_given(tmp_path):
    """Arguments, environment, directory, umask, limits, descriptors, streams, signals."""
    code = """
        import os, resource, signal, sys, json
        given = {name: value for name, value in os.environ.items() if name != "JOULELAB_RECORDING"}
        json.dump([sys.argv[1:], given, os.getcwd(), os.umask(0o22),
            resource.getrlimit(resource.RLIMIT_NOFILE), os.getpgrp(), os.getsid(0),
            sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
            signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
            [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")
             and not os.path.isdir(f"/proc/self/fd/{name}")]], sys.stdout)
    """
    environment = {
        "JOULELAB_HOME": str(tmp_path / "home"),
        "PATH": os.environ["PATH"],
        "A": "\udcff",
    }
    reading, writing = os.pipe()

    def prepare():
        os.umask(0o27)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

    seen = []
    for before in ([], [*JOULELAB, "--quiet", "--"]):
        done = subprocess.run(
            [*before, *python(code, "--name", "", "\udcfe", "--", "-h")],
            check=False,
            env=environment,
            cwd=tmp_path,
            pass_fds=[writing],
            preexec_fn=prepare,
            stdout=subprocess.PIPE,
        )
        seen.append(json.loads(done.stdout))
    os.close(reading)
    os.close(writing)
    assert seen[0] == seen[1]


def test_streams_belong_to_the_command():
    data = bytes(range(256)) * 4096
    done = run(command=["cat"], input=data)
    assert done.stdout == data
    assert b"joulelab" in done.stderr
    done = run("--quiet", command=["sh", "-c", "cat >&2"], input=data)
    assert (done.stdout, done.stderr) == (b"", data)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_closed_for_the_command(closed, tmp_path):
    listed = tmp_path / "listed"
    code = f"import os; open({str(listed)!r}, 'w').write(str(os.listdir('/proc/self/fd')))"
    seen = []
    for before in ("", " ".join([*JOULELAB, "--quiet", "--"])):
        script = f'{before} {sys.executable} -c "{code}" {closed}'
        assert subprocess.run(["sh", "-c", script], check=False).returncode == 0
        seen.append(listed.read_text())
    assert seen[0] == seen[1]


def test_a_pipe_that_the_command_closes_is_closed():
    code = "import os, time; os.close(0); os.close(1); time.sleep(60)"
    ours, theirs = os.pipe(), os.pipe()
    process = subprocess.Popen(
        [*JOULELAB, "--quiet", "--", *python(code)], stdin=theirs[0], stdout=ours[1]
    )
    os.close(theirs[0])
    os.close(ours[1])
    assert os.read(ours[0], 1) == b""
    wait_for(lambda: _refuses(theirs[1]))
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM
    os.close(ours[0])
    os.close(theirs[1])


def _refuses(descriptor):
    """Return whether no process can read what is written there."""
    with contextlib.suppress(BlockingIOError):
        os.set_blocking(descriptor, False)
        try:
            os.write(descriptor, bytes(1 << 16))
        except BrokenPipeError:
            return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGWINCH])
def test_signals_are_forwarded_once_and_leave_a_finished_record(number):
    code = f"""
        import signal, sys, time
        seen = []
        signal.signal({int(number)}, lambda *_: seen.append(1))
        signal.signal(signal.SIGCONT, lambda *_: seen.append("continued"))
        print("ready", flush=True)
        while not seen:
            time.sleep(0.01)
        time.sleep(0.2)
        print(seen, flush=True)
        sys.exit(7)
    """
    process = begin("--wait", command=python(code))
    process.send_signal(number)
    output, _ = process.communicate()
    assert (process.returncode, output) == (7, b"[1]\n")
    found = the_run()
    assert found.finished
    assert found.energy.gross_j == pytest.approx(200 * found.duration_s, rel=0.05)


def test_a_signal_that_the_command_does_not_handle_ends_both():
    process = begin(command=python(READY + "time.sleep(60)"))
    process.terminate()
    process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert the_run().signal == signal.SIGTERM


def test_the_command_outlives_a_wrapper_that_is_killed(tmp_path):
    code = READY + "sys.stdin.read(); open('done', 'w').close()"
    process = begin("--wait", command=python(code), stdin=subprocess.PIPE, cwd=tmp_path)
    wait_for(lambda: is_seen(0.4))
    process.kill()
    process.communicate()
    wait_for((tmp_path / "done").exists)
    found = the_run()
    assert not found.finished
    assert found.energy.gross_j == pytest.approx(200 * found.duration_s, rel=0.05)


def test_the_command_outlives_a_recorder_that_is_killed():
    process = begin("--wait", command=python(READY + "sys.stdin.read()"), stdin=subprocess.PIPE)
    wait_for(lambda: is_seen(0.4))
    header = read_header(the_run().directory)
    os.kill(header["pid"], signal.SIGKILL)
    _, printed = process.communicate()
    assert process.returncode == 0
    assert "the recorder ended early (killed by signal 9)" in the_run().notes
    assert b"killed by signal 9" in printed


def test_of_the_ranks_on_one_host_the_first_prints_and_all_share_a_recorder(tmp_path, monkeypatch):
    port = str(os.getpid())
    for name, value in (("MASTER_ADDR", "here"), ("MASTER_PORT", port), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    ranks = [
        subprocess.Popen(
            [*JOULELAB, "--wait", "--out", str(tmp_path / "job"), "--", "sleep", "0.8"],
            env={**os.environ, "JOULELAB_HOST": "n1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    printed = [rank.communicate()[1] for rank in ranks]
    assert [b"energy" in text for text in printed] == [True, False]
    runs = [read_run(tmp_path / "job" / "n1" / f"rank-{rank}") for rank in range(2)]
    for found in runs:
        assert found.energy.gross_j == pytest.approx(200 * found.duration_s, rel=0.05)
    recorders = {read_header(found.directory)["pid"] for found in runs}
    assert len(recorders) == 1


KILLED_RECORDER = """
import os, signal, sys
if "joulelab.recording.recorder" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("options", [[], ["--wait"]])
def test_a_command_runs_also_if_its_recorder_is_killed_while_it_starts(tmp_path, options):
    (tmp_path / "sitecustomize.py").write_text(KILLED_RECORDER)
    done = run(
        *options,
        "--out",
        str(tmp_path / "run"),
        command=["sh", "-c", "echo trained; exit 3"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (3, b"trained\n")
    assert b"not measured: the recorder did not start" in done.stderr
    saved = read_run(tmp_path / "run")
    assert (saved.status, saved.exit_code, saved.energy.components) == ("failed", 3, {})


HUNG_DRIVER = """
import sys, threading
sys.path.insert(0, {stand_ins!r})
import fake_nvml, pynvml
import joulelab.machine
from joulelab.sensors import nvml

class Hung(fake_nvml.FakeNvml):
    def _c_nvmlInitWithFlags(self, flags):
        threading.Event().wait()

pynvml.nvmlLib = Hung([fake_nvml.FakeGpu("GPU-a")])
nvml.ANSWER_S = joulelab.machine.ANSWER_S = 0.3
"""


def test_a_command_runs_and_other_sensors_measure_it_if_a_driver_hangs(tmp_path, monkeypatch):
    stand_ins = str(Path(__file__).parents[1] / "sensors")
    (tmp_path / "sitecustomize.py").write_text(HUNG_DRIVER.format(stand_ins=stand_ins))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = ["--wait", "--sensors", "gpu,cpu", "--out", str(tmp_path / "run")]
    done = run(*options, command=["sh", "-c", "echo trained; sleep 0.6; exit 3"])
    assert (done.returncode, done.stdout) == (3, b"trained\n")
    assert b"the driver has not answered for 300 ms" in done.stderr
    energy = read_run(tmp_path / "run").energy
    assert energy.components["cpu:0"].gross_j > 0
    assert "the driver has not answered" in energy.absent["gpu"]


@pytest.mark.parametrize("options", [[], ["--wait"]])
def test_a_command_runs_also_if_no_directory_can_be_made_for_its_record(
    tmp_path, monkeypatch, options
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "file" / "home"))
    done = run(*options, command=["sh", "-c", "cat; exit 3"], input=b"data")
    assert (done.returncode, done.stdout) == (3, b"data")
    assert b"joulelab: nothing is measured: cannot make" in done.stderr
    done = run(*options, command=["sh", "-c", "kill -TERM $$"])
    assert done.returncode == -signal.SIGTERM


def test_spans_from_inside_are_in_the_record(tmp_path):
    code = """
        import time, joulelab
        with joulelab.Meter() as meter:
            assert meter.joined, meter.failure
            for index in range(3):
                with meter.span("step", index=index) as span:
                    time.sleep(0.2)
            print(span.energy.gross_j)
    """
    done = run("--out", str(tmp_path / "run"), command=python(code))
    assert done.returncode == 0, done.stderr
    found = read_run(tmp_path / "run")
    (span,) = found.spans
    assert (span.name, span.count) == ("step", 3)
    assert span.gross_j == pytest.approx(200 * span.duration_s, rel=0.05)
    assert float(done.stdout) == pytest.approx(40, rel=0.1)
    assert "step" in done.stderr.decode()


def test_a_run_within_a_run_shares_its_recorder(tmp_path):
    inner = [*JOULELAB, "--wait", "--out", str(tmp_path / "inner"), "--", "sleep", "0.8"]
    assert run("--wait", "--out", str(tmp_path / "outer"), command=inner).returncode == 0
    outer, inner = read_run(tmp_path / "outer"), read_run(tmp_path / "inner")
    assert outer.duration_s > inner.duration_s > 0.8
    for found in (outer, inner):
        assert found.energy.gross_j == pytest.approx(200 * found.duration_s, rel=0.05)
    assert json.loads((tmp_path / "inner" / "run.json").read_text())["inside"] == str(
        tmp_path / "outer"
    )


def test_options_are_in_the_record(monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_PROJECT", "digits")
    options = ["--phase", "training", "--tag", "seed=1", "--tag", "lr=0.1=", "--name", "my run"]
    done = run(*options, "--json", str(tmp_path / "result.json"), command=["true"])
    assert done.returncode == 0
    found = the_run()
    assert (found.project, found.phase, found.name) == ("digits", "train", "my run")
    assert found.tags == {"seed": "1", "lr": "0.1="}
    assert found.command == ("true",)
    assert "-my-run-" in found.directory.name
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["id"] == found.id
    assert result["costs"]["carbon_g"] is None


def test_records_are_for_this_user_only_and_may_leave_arguments_out(tmp_path):
    inner = "import joulelab; joulelab.Meter(directory='inner').close()"
    secret = python(inner, "--api-key=secret")
    options = ["--out", str(tmp_path / "a" / "out"), "--no-arguments"]
    assert run(*options, command=secret, cwd=tmp_path).returncode == 0
    assert run(command=["true", "--api-key=secret"]).returncode == 0
    for directory in (tmp_path / "a" / "out", tmp_path / "inner"):
        assert read_run(directory).command == (sys.executable,)
        assert b"secret" not in b"".join(path.read_bytes() for path in directory.iterdir())
    assert the_run().command == ("true", "--api-key=secret")
    saved = [the_run().directory, tmp_path / "a" / "out", tmp_path / "a"]
    paths = [*saved, *(path for one in saved for path in one.iterdir() if not path.is_symlink())]
    assert {path.stat().st_mode & 0o077 for path in paths} == {0}


def test_json_comes_after_the_commands_own_output():
    done = run("--json", "-", "--quiet", "--wait", command=["sh", "-c", "echo out; sleep 0.5"])
    own, _, rest = done.stdout.partition(b"\n")
    assert own == b"out"
    result = json.loads(rest)
    assert result["energy"]["gross_j"] == pytest.approx(200 * result["duration_s"], rel=0.05)
    assert done.stderr == b""
    done = run("--json", "/dev/stdout", "--quiet", command=["true"])
    assert json.loads(done.stdout)["command"] == ["true"]


def test_a_command_that_ends_immediately_is_recorded_as_not_measured():
    assert run(command=["true"]).returncode == 0
    found = the_run()
    assert found.finished
    assert not found.energy.components
    assert "covers only" in found.energy.absent["gpu:0"]


def test_failing_sensors_do_not_affect_the_command(monkeypatch):
    monkeypatch.setenv("JOULELAB_SENSORS", "no_such_module:factory")
    done = run(command=["sh", "-c", "echo out; exit 3"])
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert "no sensor factory" in done.stderr.decode()
    assert the_run().exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nmae", "x", "--", "true"], "did you mean --name?"),
        (["--phase", "trainig", "--", "true"], "did you mean train?"),
        (["--tag", "seed", "--", "true"], "--tag key=value"),
        (["--sensors", "gpuu", "--", "true"], "did you mean gpu?"),
        (["--name"], "requires argument"),
        (["--"], "there is no command"),
        ([], "there is no command"),
        (["--out", "/proc/x", "--", "true"], "cannot make /proc/x"),
        (["--out", "/etc", "--", "true"], "/etc is not empty"),
        (["--json", "/no/such/place", "--", "true"], "cannot write /no/such/place"),
    ],
)
def test_a_users_error_is_one_line(arguments, words):
    done = subprocess.run([*JOULELAB, *arguments], check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_help_is_shown_only_before_the_command():
    done = subprocess.run([*JOULELAB, "--help"], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "joulelab run -- python train.py" in done.stdout
    assert "--project" in done.stdout
    assert run("--quiet", command=["printf", "%s", "--help"]).stdout == b"--help"


def test_a_run_is_compared_with_the_previous_one():
    assert b"last time" not in run("--wait", command=["sleep", "0.8"]).stderr
    assert b"last time" not in run("--wait", command=["sleep", "0.81"]).stderr
    done = run("--wait", "--json", "-", command=["sleep", "0.8"])
    assert b"last time" in done.stderr
    last = json.loads(done.stdout)["last_time"]
    assert last["energy_ratio_low"] <= last["energy_ratio"] <= last["energy_ratio_high"]
    assert last["energy_ratio"] == pytest.approx(last["duration_ratio"], rel=0.1)
    assert "arguments" not in last["differ"]
