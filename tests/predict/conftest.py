"""Measured steps and predictions that the tests share, traced once."""

from importlib.resources import files
from pathlib import Path

import pytest

from joulelab.predict.coefficients import find_datasheet
from joulelab.predict.hardware_profile import load_profile
from joulelab.predict.measurements import read_measurements
from joulelab.predict.profile_fitting import combine, fit
from joulelab.predict.step_tracing import trace_cases

TABLE = Path(str(files("joulelab.predict").joinpath("profiles", "h100.csv")))


@pytest.fixture(scope="session")
def profile():
    return load_profile("h100")


@pytest.fixture(scope="session")
def h100_measurements():
    return read_measurements(TABLE)


@pytest.fixture(scope="session")
def h100_steps(h100_measurements):
    return trace_cases([one.case for one in h100_measurements])


@pytest.fixture(scope="session")
def h100(h100_measurements, h100_steps):
    return combine(h100_measurements, h100_steps, find_datasheet("NVIDIA H100 80GB HBM3"))


@pytest.fixture(scope="session")
def h100_fit(h100):
    return fit(h100)
