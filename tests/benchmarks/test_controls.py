"""A short part of the campaign of endings, and one-line errors, on the stand-in for NVML."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.faults.controls import ENDINGS

from benchmarks import standin
from joulelab.sensors.simulated import Waveform

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the stand-in")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return standin.build(tmp_path_factory.mktemp("standin"))


def test_the_value_found_is_restored_after_every_ending():
    command = [sys.executable, "-m", "benchmarks.faults.controls", "--times", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[2:]]
    assert [(name.strip(), int(times), int(right)) for name, times, _, right in rows] == [
        (ending, 1, 1) for ending in ENDINGS
    ]


@pytest.mark.parametrize(
    ("controls", "knob", "text"),
    [
        (standin.Controls(), "power-limit", "only root may set it; run as root"),
        (standin.Controls(has_controls=False), "power-limit", "does not support it"),
        (standin.Controls(has_controls=False), "clock", "does not support it"),
        (standin.Controls(may_set=True), "power-limit=199,300", "cannot be 199 W"),
        (standin.Controls(may_set=True), "power-limit=300,701", "cannot be 701 W"),
    ],
)
def test_what_cannot_be_set_is_one_line_and_exit_code_2(library, tmp_path, controls, knob, text):
    waveform = standin.write(tmp_path / "wave.txt", Waveform.constant(350), controls=controls)
    environment = standin.environment(library, waveform, os.environ)
    environment |= {"JOULELAB_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "joulelab", "tune", "--knobs", knob, "--", "sleep", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr
    assert {request.limit_w for request in standin.requests(waveform)} <= {700}
