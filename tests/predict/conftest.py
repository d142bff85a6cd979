"""Steps that the tests of predictions share, traced once."""

from importlib.resources import files
from pathlib import Path

import pytest

from joulelab.predict.devices import require_datasheet
from joulelab.predict.measurements import read_measurements
from joulelab.predict.profiling import observe
from joulelab.predict.steps import steps_of

TABLE = Path(str(files("joulelab.predict").joinpath("profiles", "h100.csv")))


@pytest.fixture(scope="session")
def h100_measurements():
    return read_measurements(TABLE)


@pytest.fixture(scope="session")
def h100_steps(h100_measurements):
    return steps_of([one.case for one in h100_measurements])


@pytest.fixture(scope="session")
def h100(h100_measurements, h100_steps):
    return observe(h100_measurements, h100_steps, require_datasheet("NVIDIA H100 80GB HBM3"))
