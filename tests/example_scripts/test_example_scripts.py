"""The scripts in `examples` run, and print what their docstrings promise."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ENERGY = r"[\d,.]+ [mk]?J \(95 % CI "
EXPECTED = {
    "measure_block": rf"one block: {ENERGY}.*\nload: .* J \(95 % CI .*\ncompute: ",
    "training_loop": rf"(epoch \d: loss [\d.]+\n){{6}}all epochs: {ENERGY}.*\n100 epochs: ",
    "keras_callback": r"(epoch \d: [\d.e+]+ J, [\d.e+]+ W\n){3}fit: ",
    "nvidia_smi_log": rf"idle: {ENERGY}.*\nVGG16 train: {ENERGY}.* gross, {ENERGY}.* net\n",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each example printed, on simulated sensors."""
    folder = tmp_path_factory.mktemp("examples")
    results = folder / "results.json"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("run_all.py"), results, EXAMPLES],
        cwd=folder,
        env=os.environ | {"JOULELAB_SENSORS": "simulated", "JOULELAB_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(results.read_text())
    return printed | {"compare_settings": printed["compare_settings"] + done.stdout + done.stderr}


@pytest.mark.parametrize("name", EXPECTED)
def test_example_prints_its_result(outputs, name):
    assert re.match(EXPECTED[name], outputs[name]), outputs[name]


def test_settings_are_compared(outputs):
    assert re.search(r"gross energy: .* in the candidate", outputs["compare_settings"]), outputs


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_is_short_and_says_how_to_run_it(path):
    text = path.read_text()
    assert len(text.splitlines()) < 40
    assert f"`python examples/{path.name}" in ast.get_docstring(ast.parse(text))
