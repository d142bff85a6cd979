"""A meter whose recorder lives in a world where things go wrong when a test says so."""

import json
import os
import time
from pathlib import Path

import pytest

import joulelab

STAND_INS = Path(__file__).parents[1] / "sensors"


class World:
    """Tells the recorder what goes wrong."""

    def __init__(self, directory):
        self._directory = directory

    def set(self, name, **fault):
        """A fault appears whole: written aside and renamed."""
        aside = self._directory / f".{name}"
        aside.write_text(json.dumps(fault))
        aside.rename(self._directory / name)

    def mend(self, name):
        (self._directory / name).unlink()


@pytest.fixture
def world(tmp_path, monkeypatch):
    faults, site = tmp_path / "faults", tmp_path / "site"
    faults.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text("import faulty_world\nfaulty_world.install()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(site), str(STAND_INS))))
    monkeypatch.setenv("FAULTS", str(faults))
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return World(faults)


@pytest.fixture
def meter(world, tmp_path):
    with joulelab.Meter(sensors=["gpu"], directory=tmp_path / "run") as meter:
        yield meter


@pytest.fixture
def work():
    """A workload with a result of its own."""

    def busy(seconds):
        until, total = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            total = sum(range(1000))
            time.sleep(0.001)
        return total

    return busy
