"""The pytest plugin: budgets of energy, an ``energy`` fixture, and a table at the end.

pytest loads this module in every run of every project, so it imports nothing that is not needed
before the first test that is measured.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.integrations.pytest_session import EnergySession
    from joulelab.meter import Meter
    from joulelab.recording.spans import Span

MARKER = "energy"
SESSION = pytest.StashKey["EnergySession"]()
MEASURED = pytest.StashKey["EnergyOfTest"]()
WORKER_ROWS = "joulelab_energy"
"""Where a worker of xdist leaves its rows for whoever prints the table."""

WORKERS_WHY = (
    "energy is not measured with {count} workers: each would count the others' work; run with "
    "-n 1 or -n 0, or give --energy-shared to have the whole machine's as an upper bound"
)


class EnergyOfTest:
    """What a test, through the ``energy`` fixture, knows of its own energy.

    Example:
        ``def test_fit(energy): with energy.span("fit") as span: ...; span.energy.gross_j < 5``
    """

    def __init__(self, meter: Meter, nodeid: str) -> None:
        self.meter, self._nodeid = meter, nodeid
        self.test: Span | None = None

    def span(self, name: str, /, **attributes: Any) -> Span:
        """A span around a part of the test."""
        return self.meter.span(name, test=self._nodeid, **attributes)

    @property
    def energy(self) -> Energy:
        """Of the test's call, once it is over, as in a fixture's teardown.

        Raises:
            ValueError: The call is not over; use :meth:`span` for a part of it.
        """
        if self.test is None or self.test.stop_ns is None:
            raise ValueError("the test is not over: its energy is known in a fixture's teardown")
        return self.test.energy


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in a group of their own."""
    group = parser.getgroup("energy", "energy (joulelab)")
    group.addoption("--energy", action="store_true", help="measure the energy of every test")
    group.addoption(
        "--energy-sensors",
        metavar="NAMES",
        help="what to read, as gpu,cpu; default: everything that is there",
    )
    group.addoption(
        "--energy-baseline",
        metavar="FILE",
        help="fail tests that are shown to take more than they did before, by this file",
    )
    group.addoption(
        "--energy-update",
        action="store_true",
        help="add this session's runs to --energy-baseline; nothing fails by it",
    )
    group.addoption(
        "--energy-tolerance",
        metavar="PERCENT",
        default="10%",
        help="how much more than the baseline is borne; default: %(default)s",
    )
    group.addoption(
        "--energy-strict",
        action="store_true",
        help="fail also where it cannot be told whether a budget or the tolerance is kept",
    )
    group.addoption(
        "--energy-shared",
        action="store_true",
        help="measure under xdist: each figure is the whole machine's, and nothing fails by it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """States the marker, and refuses what cannot be measured."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(budget_j=None, tolerance=None): measure this test's energy; it fails when it "
        "is shown to take more than budget_j, or more than its baseline by the tolerance "
        "(a fraction)",
    )
    option = config.option
    if option.energy_update and not option.energy_baseline:
        raise pytest.UsageError("--energy-update needs --energy-baseline FILE")
    _tolerance(option.energy_tolerance)
    workers = _workers(config)
    asked = option.energy or option.energy_baseline or option.energy_strict
    if workers > 1 and asked and not option.energy_shared:
        raise pytest.UsageError(WORKERS_WHY.format(count=workers))
    if workers > 1 and option.energy_update:
        raise pytest.UsageError("--energy-update keeps no figures that several workers share")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses markers that say nothing that can be checked."""
    for item in items:
        for mark in item.iter_markers(MARKER):
            _check(item, mark)


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Starts the meter before the first test that is measured, outside its time."""
    asked = item.config.option.energy or item.get_closest_marker(MARKER) is not None
    if asked and MEASURED not in item.stash:
        session = _session(item.config)
        if session.refusal:
            session.not_measured(item.nodeid, session.refusal)
        else:
            item.stash[MEASURED] = _measured(item.config, item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Measures the call, and lets a test that passed fail over its budget or its baseline."""
    measured = item.stash.get(MEASURED, None)
    if measured is None:
        return (yield)
    with measured.meter.span("test", test=item.nodeid) as measured.test:
        result = yield
    if getattr(item, "_excinfo", None):  # where unittest's tests keep what they raised
        return result
    with _usage_errors():
        why = _session(item.config).add(item, measured.test)
    if why:
        pytest.fail(why, pytrace=False)
    return result


@pytest.fixture
def energy(request: pytest.FixtureRequest) -> EnergyOfTest:
    """Energy of this test and of parts of it: ``with energy.span("fit") as span: ...``."""
    session = _session(request.config)
    if session.refusal:
        pytest.skip(session.refusal)
    measured = _measured(request.config, request.node.nodeid)
    request.node.stash[MEASURED] = measured
    return measured


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Works out what is left to be worked out; a worker hands it over."""
    found = session.config.stash.get(SESSION, None)
    if found is None:
        return
    worker_output = getattr(session.config, "workeroutput", None)
    with _usage_errors():
        found.close()
        if worker_output is None:
            found.keep()
    if worker_output is not None:
        worker_output[WORKER_ROWS] = json.dumps([row.to_json() for row in found.rows])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Takes over a worker's rows."""
    del error
    rows = getattr(node, "workeroutput", {}).get(WORKER_ROWS)
    if rows:
        _session(node.config).take(json.loads(rows))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The table, where anything was measured or should have been."""
    found = config.stash.get(SESSION, None)
    if found is None or not found.rows:
        return
    from joulelab.integrations.pytest_table import table  # noqa: PLC0415

    terminalreporter.section("energy")
    for line in table(found):
        terminalreporter.write_line(line)


def _session(config: pytest.Config) -> EnergySession:
    if SESSION not in config.stash:
        from joulelab.integrations.pytest_session import EnergySession, Options  # noqa: PLC0415

        option, workers = config.option, _workers(config)
        refused = workers > 1 and not option.energy_shared
        config.stash[SESSION] = EnergySession(
            Options(
                sensors=_sensors(option.energy_sensors),
                baseline=option.energy_baseline,
                update=option.energy_update,
                tolerance=_tolerance(option.energy_tolerance),
                strict=option.energy_strict,
                shared_by=workers,
            ),
            refusal=WORKERS_WHY.format(count=workers) if refused else "",
        )
    return config.stash[SESSION]


def _sensors(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [text] if text.startswith("simulated:") else text.split(",")


def _measured(config: pytest.Config, nodeid: str) -> EnergyOfTest:
    """A test that is about to be measured; the first starts the meter and reads the baselines."""
    session = _session(config)
    with _usage_errors():
        meter = session.meter
        _ = session.baselines
    return EnergyOfTest(meter, nodeid)


@contextmanager
def _usage_errors() -> Iterator[None]:
    """What no test is to blame for ends the session, in one line."""
    from joulelab.errors import JoulelabError  # noqa: PLC0415

    try:
        yield
    except JoulelabError as error:
        pytest.exit(f"joulelab: {error}", returncode=pytest.ExitCode.USAGE_ERROR)


def _workers(config: pytest.Config) -> int:
    """How many processes run tests, as a worker of xdist and as who started it see it."""
    worker = getattr(config, "workerinput", None)
    return worker["workercount"] if worker else getattr(config.option, "numprocesses", None) or 1


def _tolerance(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < (10 if text.endswith("%") else 1):
        raise pytest.UsageError(f"--energy-tolerance {text}: give a percentage, as 10%")
    return value


def _check(item: pytest.Item, mark: pytest.Mark) -> None:
    unknown = set(mark.kwargs) - {"budget_j", "tolerance"}
    if mark.args or unknown:
        raise pytest.UsageError(
            f"{item.nodeid}: {MARKER} takes budget_j and tolerance by name, not "
            f"{', '.join([*map(repr, mark.args), *sorted(unknown)])}"
        )
    for name, value in mark.kwargs.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and value > 0):
            raise pytest.UsageError(f"{item.nodeid}: {MARKER}({name}={value!r}) is not above 0")
