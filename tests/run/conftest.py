"""Records of jobs on a machine of constant power."""

import time

import pytest

from joulelab import Meter
from joulelab.machine import describe
from joulelab.runs.job import SCHEMA, write_record
from joulelab.runs.job_energy import account
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

MACHINE = SimulatedMachine((SimulatedSource(component="gpu:0", waveform=Waveform.constant(200.0)),))


def started(directory, *, name="train", start_ns=None, **changed):
    """A job.json in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    data = {
        "schema": SCHEMA,
        "id": directory.name,
        "command": ["python", "train.py"],
        "name": name,
        "project": "digits",
        "phase": "training",
        "tags": {"seed": "1"},
        "host": "here",
        "machine": describe().to_json(),
        "started_unix_s": 1000.0,
        "start_ns": start_ns or time.monotonic_ns(),
        "settings": {"sensors": None},
        "baseline": None,
        "joined": None,
        **changed,
    }
    write_record(directory / "job.json", data)
    return data


def finished(directory, **changed):
    """A job that has finished, with a span, and what its record says."""
    with Meter(sensors=MACHINE) as meter:
        start_ns = time.monotonic_ns()
        with meter.span("epoch"):
            time.sleep(0.3)
        stop_ns = time.monotonic_ns()
        found = account(meter.trace, start_ns, stop_ns)
    data = started(directory, start_ns=start_ns, **changed)
    data |= {
        "ended_unix_s": data["started_unix_s"] + (stop_ns - start_ns) * 1e-9,
        "duration_s": (stop_ns - start_ns) * 1e-9,
        "exit_code": 3,
        "signal": None,
        "energy": found.energy.to_json(),
        "spans": [row.to_json() for row in found.spans],
        "notes": ["a note"],
    }
    write_record(directory / "run.json", data)
    return data


@pytest.fixture(name="constant")
def _constant():
    """A machine of 200 W."""
    return MACHINE


@pytest.fixture(name="started")
def _started():
    """Writes the record of a job that has not finished."""
    return started


@pytest.fixture(name="finished")
def _finished():
    """Writes the record of a job that has."""
    return finished
