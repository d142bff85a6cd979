"""Writes records with known, invented figures: no machine measured them."""

import json
from datetime import datetime

import pytest

from joulelab.carbon.site import ENVIRONMENT
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.runs.job import SCHEMA
from joulelab.sensors.sensor import Provenance


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    for variable in (*ENVIRONMENT.values(), "JOULELAB_PROJECT", "JOULELAB_PHASE"):
        monkeypatch.delenv(variable, raising=False)


def energy(gross_j, duration_s=100.0, gain=0.05, edge_j=0.0, component="gpu:0"):
    part = ComponentEnergy(
        component=component,
        source="counter",
        provenance=Provenance.SIMULATED,
        duration_s=duration_s,
        gross_j=gross_j,
        gain_uncertainty=gain,
        edge_uncertainty_j=edge_j,
    )
    return Energy(duration_s=duration_s, components={component: part})


def write_job(directory, gross_j, *, began="2026-11-02T12:00+00:00", duration_s=100.0, **changed):
    """A finished job of a steady load; ``gross_j`` may be an Energy."""
    directory.mkdir(parents=True)
    spent = gross_j if isinstance(gross_j, Energy) else energy(gross_j, duration_s)
    started_unix_s = datetime.fromisoformat(began).timestamp()
    data = {
        "schema": SCHEMA,
        "id": directory.name,
        "command": ["python", "train.py"],
        "name": "train",
        "project": None,
        "phase": None,
        "tags": {},
        "host": "here",
        "machine": None,
        "settings": {},
        "started_unix_s": started_unix_s,
        "start_ns": 0,
        "pid": None,
        "baseline": None,
        "joined": None,
        "ended_unix_s": started_unix_s + duration_s,
        "duration_s": duration_s,
        "exit_code": 0,
        "signal": None,
        "energy": spent.to_json(),
        "spans": [],
        "notes": [],
    } | changed
    for name in ("job.json", "run.json"):
        (directory / name).write_text(json.dumps(data))
    return directory


@pytest.fixture
def job():
    return write_job


@pytest.fixture
def make_energy():
    return energy
