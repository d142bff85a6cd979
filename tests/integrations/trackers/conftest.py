"""Programs that log to real trackers, each run once: importing them takes seconds."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from joulelab.run.saved_summary import read_summary
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

HERE = Path(__file__).parent
MACHINE = SimulatedMachine((SimulatedSource(component="gpu:0", waveform=Waveform.constant(150.0)),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def run_program(folder):
    """Run a program next to this file with the offline stores of all trackers in one folder."""

    def run(*command):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            variables = {
                "JOULELAB_HOME": str(folder / "home"),
                "JOULELAB_SENSORS": MACHINE.spec(),
                "JOULELAB_COUNTRY": "DE",
                "JOULELAB_PRICE": "0.3",
                "JOULELAB_CURRENCY": "EUR",
                "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
                "WANDB_MODE": "offline",
                "NO_SERVER": f"http://127.0.0.1:{port}",
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            }
            removed = ("JOULELAB_RECORDING", "WANDB_DIR", "WANDB_RUN_ID", "MLFLOW_RUN_ID")
            environment = {key: os.environ[key] for key in os.environ if key not in removed}
            done = subprocess.run(
                [sys.executable, *command],
                cwd=folder,
                env=environment | variables,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def read_back(run_program):
    """Run a program that prints what its trackers have."""
    return lambda name: json.loads(run_program(str(HERE / name)).stdout.splitlines()[-1])


@pytest.fixture
def summary_of(folder, monkeypatch):
    """Open a record as ``joulelab show`` does, at the site at which it was made."""
    monkeypatch.setenv("JOULELAB_HOME", str(folder / "home"))
    for name, value in (("COUNTRY", "DE"), ("PRICE", "0.3"), ("CURRENCY", "EUR")):
        monkeypatch.setenv(f"JOULELAB_{name}", value)
    return lambda directory: read_summary(folder / directory)
