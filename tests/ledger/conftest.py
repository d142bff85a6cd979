"""Records of runs with invented values: no machine measured them."""

from datetime import datetime

import pytest
from energy_parts import energy_of

from joulelab.energy.energy import Energy
from joulelab.runs.record import Run, SpanTotal, write_record


@pytest.fixture(autouse=True)
def no_labels(home, monkeypatch):
    for variable in ("JOULELAB_PROJECT", "JOULELAB_PHASE"):
        monkeypatch.delenv(variable, raising=False)


def energy(gross_j, duration_s=100.0, gain=0.05, edge_j=0.0, component="gpu:0"):
    return energy_of(
        gross_j,
        duration_s,
        component,
        source="counter",
        gain_uncertainty=gain,
        edge_uncertainty_j=edge_j,
    )


def write_run(directory, gross_j, *, began="2026-11-02T12:00+00:00", duration_s=100.0, **changed):
    """A finished run of constant power; ``gross_j`` may be an Energy."""
    directory.mkdir(parents=True)
    started_unix_s = datetime.fromisoformat(began).timestamp()
    values = {
        "id": directory.name,
        "kind": "command",
        "name": "train",
        "command": ("python", "train.py"),
        "host": "here",
        "started_unix_s": started_unix_s,
        "ended_unix_s": started_unix_s + duration_s,
        "duration_s": duration_s,
        "status": "done",
        "exit_code": 0,
        "energy": gross_j if isinstance(gross_j, Energy) else energy(gross_j, duration_s),
    }
    run = Run(directory=directory, **values | changed)
    write_record(directory, run.to_json())
    return directory


def requests(count, gross_j, low_j, high_j):
    """The total of a number of spans named ``request``."""
    return SpanTotal(
        name="request",
        count=count,
        duration_s=90.0,
        gross_j=gross_j,
        low_j=low_j,
        high_j=high_j,
        net_j=float("nan"),
    )


@pytest.fixture
def run_record():
    return write_run


@pytest.fixture
def make_energy():
    return energy


@pytest.fixture
def request_spans():
    return requests
