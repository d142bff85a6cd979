"""``joulelab tune`` of studies and commands, as users start it."""

import csv
import json
import signal
import subprocess
import sys

import pytest
from sysfs_limits import package
from waiting import wait_for

from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

POWER_W = 100.0
MACHINE = SimulatedMachine(
    (SimulatedSource(component="cpu:0", waveform=Waveform.constant(POWER_W)),)
).spec()
SLEEPS = "import sys, time; print('output'); time.sleep(float(sys.argv[1]))"
EPOCHS = """
import os, signal, sys, time
from pathlib import Path
import joulelab
limit = Path(sys.argv[1])
loop = joulelab.epochs(range(int(sys.argv[2])), quiet=True)
for epoch in loop:
    if Path("stop").exists():
        break
    for batch in loop.steps(range(50)):
        # Below 100 W, steps are slower.
        time.sleep(0.004 * max(1.0, 100e6 / int(limit.read_text() or 150e6)))
sys.exit(int(sys.argv[3]))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start ``joulelab tune`` with simulated sensors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOULELAB_SENSORS", MACHINE)
    monkeypatch.setenv("JOULELAB_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))

    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "joulelab", "tune", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate()


@pytest.fixture
def tune(start):
    def tune(*arguments):
        process = start(*arguments)
        out, error = process.communicate()
        return process.returncode, out, error

    return tune


@pytest.fixture
def zone(tmp_path):
    """The only package of this machine, whose limit is 150 W."""
    return package(tmp_path / "sys", 0, limit_w=150, max_w=150)


def read_until(text, process):
    """Read what a process prints as errors until this text."""
    error = ""
    while text not in error:
        line = process.stderr.readline()
        assert line, error
        error += line
    return error


def limit_w(zone):
    return int((zone / "constraint_0_power_limit_uw").read_text() or 0) / 1e6


# studies


def test_a_study_is_tuned_with_a_page_a_table_and_json(tune, tmp_path):
    code, out, error = tune(
        "--knobs", "batch-size=16,48", "--window", "0.3", "--out", tmp_path / "out", "--json",
        "--set", "models=['LeNet']", "--set", "factors.batch_size=16",
        "--set", "data.name=synthetic", "--set", "data.train_count=96",
        "--set", "data.test_count=16", "quick",
    )  # fmt: skip
    assert code == 0, error
    result = json.loads(out)
    assert result["baseline"] == {"batch_size": 16}
    assert result["unit"] == "sample"
    assert "the energy is simulated, not measured" in result["notes"]
    assert any("changes what the model learns" in note for note in result["notes"])
    assert result["cost_j"] == pytest.approx(POWER_W * result["cost_s"], rel=0.3)
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    rows = list(csv.DictReader((tmp_path / "out" / "probes.csv").read_text().splitlines()))
    assert len(rows) == result["probes"]
    assert {"16"} <= {row["batch_size"] for row in rows} <= {"16", "48"}
    for row in rows:
        power_w = float(row["energy_j"]) / float(row["duration_s"])
        assert power_w == pytest.approx(POWER_W, rel=0.02)
    assert "<svg" in (tmp_path / "out" / "index.html").read_text()
    assert "[1] batch size 16: " in error
    # The table of probes can be searched again.
    code, out, error = tune("--replay", tmp_path / "out" / "probes.csv", "--knobs", "batch-size",
                            "--baseline", "16", "--json")  # fmt: skip
    assert (code, json.loads(out)["baseline"]) == (0, {"batch_size": 16})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quick"], "the plan has 4 models"),
        (["nonsense"], "no plan 'nonsense'"),
        (["--set", "factors.power_limit_w=[200]", "quick"], "the plan itself sets power_limit_w"),
        ([], "give one of PLAN, -- COMMAND ... and --replay TABLE"),
        (["quick", "--", "true"], "give one of PLAN, -- COMMAND ... and --replay TABLE"),
        (["--knobs", "lr=1,2", "quick"], "no knob 'lr'"),
        (["--knobs", "batch-size=1,2", "--", "true"], "does not use the batch size"),
        (["--knobs", "lr", "--", "true", "{lr}"], "the levels of lr are unknown"),
        (["--baseline", "8", "quick"], "--baseline and --noise are for --replay"),
        (["--", "true"], "no power limit can be set"),
        (["--dry-run", "--", "true"], "no power limit can be set"),
        (["--knobs", "n=1,2", "--", "no-such-program", "{n}"], "command not found"),
        (["--knobs", "n=1,2", "--", "false", "{n}"], "the command failed: exit code 1"),
    ],
)
def test_wrong_requests_are_one_line(tune, arguments, message):
    code, out, error = tune(*arguments)
    assert (code, out) == (127 if "not found" in message else 2, "")
    assert error.count("\n") == 1
    assert message in error


# whole runs


def test_settings_of_a_command_are_tuned_by_whole_runs(tune, tmp_path):
    # A shell starts sooner than Python, also on a busy machine.
    code, out, error = tune("--knobs", "seconds=1.8,0.3,0.6", "--out", tmp_path / "out", "--",
                            "sh", "-c", "echo output; sleep $0", "{seconds}")  # fmt: skip
    assert code == 0, error
    assert out.startswith("Seconds 0.3 saves ")
    assert "Each probe is a whole run of the command" in out
    assert "Apply:   sh -c " in out
    assert out.count("output") == 1  # Only in the command that applies the choice.
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert error.count("output\n") == result["probes"]
    assert result["unit"] == "run"
    assert result["saving"] == pytest.approx(1 - 0.3 / 1.8, abs=0.15)


def test_settings_at_which_a_command_fails_are_left_out(tune):
    code = "import sys, time; time.sleep(0.2); sys.exit(3 if sys.argv[1] == 'b' else 0)"
    code, out, _ = tune("--knobs", "mode=a,b", "--json", "--", sys.executable, "-c", code, "{mode}")
    result = json.loads(out)
    assert (code, result["settings"]) == (0, {"mode": "a"})
    assert [one["reason"] for one in result["left_out"]] == ["the command failed: exit code 3"]


# a running command


def test_limits_are_tuned_while_the_command_works(tune, zone, tmp_path):
    code, out, error = tune("--knobs", "cpu-power-limit=50,100", "--window", "0.3", "--json", "--",
                            sys.executable, "-c", EPOCHS, zone / "constraint_0_power_limit_uw",
                            60, 7)  # fmt: skip
    assert code == 7, error  # That of the command.
    result = json.loads(out)
    assert result["baseline"] == {"cpu_power_limit": 150}
    assert result["unit"] == "step"
    assert result["cost_s"] is None  # Its work had to be done.
    assert "[1] CPU power limit 150 W: " in error or "[1] cpu power limit 150 W: " in error
    assert result["settings"]["cpu_power_limit"] in (100, 150)  # At 50 W, steps take twice as long.
    assert limit_w(zone) == 150


def test_a_command_without_steps_is_run_again_for_each_probe(tune, zone):
    code, out, _ = tune("--knobs", "cpu-power-limit=100", "--json", "--",
                        sys.executable, "-c", SLEEPS, "0.3")  # fmt: skip
    result = json.loads(out)
    assert (code, result["unit"]) == (0, "run")
    assert any("it reports no steps or epochs" in note for note in result["notes"])
    assert limit_w(zone) == 150


def test_a_dry_run_measures_the_baseline_alone(start, zone, tmp_path):
    process = start("--dry-run", "--knobs", "cpu-power-limit=50,100", "--window", "0.3", "--json",
                    "--", sys.executable, "-c", EPOCHS, zone / "constraint_0_power_limit_uw",
                    10000, 0)  # fmt: skip
    error = read_until("[1]", process)
    (tmp_path / "stop").touch()
    out, rest = process.communicate()
    assert process.returncode == 0, error + rest
    result = json.loads(out)
    assert result["probes"] == 1
    assert "a search would try cpu power limit 50 W, 100 W or 150 W" in result["reason"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_restores_the_limit_and_reports_what_is_known(start, zone, sent, code):
    process = start("--knobs", "cpu-power-limit=50,60,70,80,90,100", "--window", "0.5", "--",
                    sys.executable, "-c", EPOCHS, zone / "constraint_0_power_limit_uw",
                    10000, 0)  # fmt: skip
    read_until("[2]", process)
    wait_for(lambda: limit_w(zone) < 150)
    process.send_signal(sent)
    out, _ = process.communicate()
    assert process.returncode == code
    assert limit_w(zone) == 150
    if sent == signal.SIGINT:
        assert "The search is not complete: it was interrupted." in out
