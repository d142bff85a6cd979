"""Records of runs on a simulated machine of 200 W, for tests."""

import time
from functools import cache

from joulelab import Meter
from joulelab.energy.estimator import EnergyEstimator
from joulelab.machine import describe
from joulelab.runs.record import Run, measure, write_record
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

MACHINE = SimulatedMachine((SimulatedSource(component="gpu:0", waveform=Waveform.constant(200.0)),))


@cache
def measured():
    """What a real recording with one span gives, and its duration."""
    with Meter(sensors=MACHINE) as meter:
        start_ns = time.monotonic_ns()
        with meter.span("epoch"):
            time.sleep(0.3)
        stop_ns = time.monotonic_ns()
        found = measure(meter.trace, EnergyEstimator(meter.trace), start_ns, stop_ns)
    return found, (stop_ns - start_ns) * 1e-9


def write_started(directory, **changes):
    """Write the record of a command that has not finished."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {
        "id": directory.name,
        "kind": "command",
        "command": ("python", "train.py"),
        "name": "train",
        "project": "digits",
        "phase": "train",
        "tags": {"seed": "1"},
        "host": "here",
        "machine": describe(),
        "started_unix_s": 1000.0,
        "start_ns": time.monotonic_ns(),
        "settings": {"sensors": None},
    }
    run = Run(directory=directory, **(values | changes))
    write_record(directory, run.to_json())
    return run


def write_finished(directory, *, started_unix_s=1000.0, **changes):
    """Write the record of a command that has finished with exit code 3."""
    found, duration_s = measured()
    values = {
        "started_unix_s": started_unix_s,
        "ended_unix_s": started_unix_s + duration_s,
        "duration_s": duration_s,
        "status": "failed",
        "exit_code": 3,
        **found,
        "notes": ("a note",),
    }
    return write_started(directory, **(values | changes))
