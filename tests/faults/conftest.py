"""Meters whose recorder sees a world in which things go wrong when a test demands it."""

import contextlib
import json
import os
import time
from pathlib import Path

import pytest

import joulelab

STAND_INS = Path(__file__).parents[1] / "sensors"


class World:
    """What goes wrong for the recorder."""

    def __init__(self, directory):
        self._directory = directory

    def set(self, name, **fault):
        """Set a fault, which appears whole: written aside and renamed."""
        aside = self._directory / f".{name}"
        aside.write_text(json.dumps(fault))
        aside.rename(self._directory / name)

    def clear(self, name):
        (self._directory / name).unlink()


@contextlib.contextmanager
def faulty_meter(make_directory):
    """A meter with a world of its own."""
    with pytest.MonkeyPatch.context() as patch:
        site, faults = make_directory("site"), make_directory("faults")
        (site / "sitecustomize.py").write_text("import faulty_world\nfaulty_world.install()\n")
        patch.setenv("PYTHONPATH", os.pathsep.join((str(site), str(STAND_INS))))
        patch.setenv("FAULTS", str(faults))
        patch.setenv("JOULELAB_HOME", str(make_directory("home")))
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        directory = make_directory("run")
        with joulelab.Meter(sensors=["gpu"], directory=directory, record=False) as meter:
            yield World(faults), meter


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One world and meter for faults that leave nothing behind."""
    with faulty_meter(tmp_path_factory.mktemp) as both:
        yield both


@pytest.fixture
def own(tmp_path_factory):
    """A world and a meter for one test."""
    with faulty_meter(tmp_path_factory.mktemp) as both:
        yield both


@pytest.fixture
def work():
    """A workload with a result of its own."""

    def busy(seconds):
        until, total = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            total = sum(range(1000))
            time.sleep(0.01)
        return total

    return busy
