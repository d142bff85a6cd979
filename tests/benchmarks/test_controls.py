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
BORROW = """
import sys
from joulelab.cli.app import complain
from joulelab.controls.borrowing import borrow
from joulelab.controls.machine_controls import find_controls
from joulelab.errors import JoulelabError
try:
    with borrow(find_controls().named("power_limit")) as borrowed:
        borrowed.set({"power_limit": float(sys.argv[1])})
except JoulelabError as error:
    complain(str(error))
    sys.exit(error.exit_code)
"""


def test_the_value_found_is_restored_after_every_ending():
    command = [sys.executable, "-m", "benchmarks.faults.controls", "--times", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[2:]]
    assert [(name.strip(), int(times), int(right)) for name, times, _, right in rows] == [
        (ending, 2, 2) for ending in ENDINGS
    ]


@pytest.mark.parametrize(
    ("controls", "power_w", "text"),
    [
        (standin.Controls(), 300, "only root may set it; run as root"),
        (standin.Controls(has_controls=False), 300, "does not support it (Not Supported)"),
        (standin.Controls(may_set=True), 199, "it allows 200.0 to 700.0 W"),
        (standin.Controls(may_set=True), 701, "it allows 200.0 to 700.0 W"),
    ],
)
def test_what_cannot_be_set_is_one_line_and_exit_code_2(tmp_path, controls, power_w, text):
    library = standin.build(tmp_path / "library")
    waveform = standin.write(tmp_path / "wave.txt", Waveform.constant(350), controls=controls)
    environment = standin.environment(library, waveform)
    environment |= {"JOULELAB_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", BORROW, str(power_w)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr
    assert power_w not in [request.limit_w for request in standin.requests(waveform)]
