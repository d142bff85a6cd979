"""The pytest plugin: energy budgets and baselines of tests, an ``energy`` fixture, and a table.

pytest loads this module in every run of every project, so it imports what it needs with the first
test that is measured.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from joulelab.errors import JoulelabError
from joulelab.format import parse_percent

if TYPE_CHECKING:
    from joulelab.energy.energy import Energy
    from joulelab.integrations.pytest_session import EnergySession
    from joulelab.meter import Meter
    from joulelab.recording.spans import Span

MARKER = "energy"
ARGUMENTS = {"budget_j", "tolerance"}
SESSION = pytest.StashKey["EnergySession"]()
MEASURED = pytest.StashKey["EnergyOfTest"]()
WORKER_RESULTS = "joulelab_energy"
"""Where an xdist worker leaves its results for the process that prints the table."""

DEFAULT_TOLERANCE = 0.1
WORKERS_WHY = (
    "energy is not measured with {count} workers, since each would include the others' work: use "
    "-n 1 or -n 0, or --joulelab-shared for the energy of the whole machine, an upper bound"
)

FLAGS = {
    "--joulelab": "measure the energy of every test",
    "--joulelab-update": "add this session's runs to --joulelab-baseline instead of checking them",
    "--joulelab-strict": "also fail tests if a budget or the tolerance is undecided",
    "--joulelab-shared": "measure under xdist: values are the whole machine's, and no test fails",
}
OPTIONS = {
    "--joulelab-sensors": ("NAMES", "sensors to read, for example gpu,cpu; default: all"),
    "--joulelab-baseline": ("FILE", "fail tests significantly above their baseline in this file"),
    "--joulelab-tolerance": (
        "PERCENT",
        "how much more than the baseline is tolerated; default: 10%%",
    ),
}


class EnergyOfTest:
    """The energy of a test and of its parts: the ``energy`` fixture.

    Example:
        ``def test_fit(energy): with energy.span("fit") as span: ...; span.energy.gross_j < 5``
    """

    def __init__(self, meter: Meter, nodeid: str) -> None:
        self.meter, self._nodeid = meter, nodeid
        self.test: Span | None = None

    def span(self, name: str, /, **attributes: Any) -> Span:
        """Create a span for a part of the test."""
        return self.meter.span(name, test=self._nodeid, **attributes)

    @property
    def energy(self) -> Energy:
        """Energy of the test's call, after its end, for example in the teardown of a fixture."""
        if self.test is None or self.test.stop_ns is None:
            raise ValueError("the test has not ended: read its energy in the teardown of a fixture")
        return self.test.energy


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, in a group of their own."""
    group = parser.getgroup("joulelab", "energy of tests (joulelab)")
    for name, text in FLAGS.items():
        group.addoption(name, action="store_true", help=text)
    for name, (metavar, text) in OPTIONS.items():
        group.addoption(name, metavar=metavar, help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and reject options that cannot be combined."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(budget_j=None, tolerance=None): measure this test's energy; it fails if it uses "
        "significantly more than budget_j, or than its baseline plus the tolerance (a fraction)",
    )
    option = config.option
    if option.joulelab_update and not option.joulelab_baseline:
        raise pytest.UsageError("--joulelab-update needs --joulelab-baseline FILE")
    _tolerance(option.joulelab_tolerance)
    workers = _workers(config)
    is_wanted = option.joulelab or option.joulelab_baseline or option.joulelab_strict
    if workers > 1 and is_wanted and not option.joulelab_shared:
        raise pytest.UsageError(WORKERS_WHY.format(count=workers))
    if workers > 1 and option.joulelab_update:
        raise pytest.UsageError("--joulelab-update cannot be used with several workers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Reject invalid markers, if the plugin is in use: another project's may have this name."""
    names = [name.removeprefix("--").replace("-", "_") for name in (*FLAGS, *OPTIONS)]
    is_used = any(config.getoption(name) for name in names)
    for item in items:
        for mark in item.iter_markers(MARKER):
            if is_used or _is_own(mark):
                _check(item, mark)


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start the meter before the first test that is measured, outside its time."""
    is_wanted = item.config.option.joulelab or any(map(_is_own, item.iter_markers(MARKER)))
    if is_wanted and MEASURED not in item.stash:
        session = _session(item.config)
        if session.refusal:
            session.add_refused(item.nodeid)
        else:
            item.stash[MEASURED] = _measured(item.config, item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Measure the call, and let a test that passed fail for its budget or its baseline."""
    measured = item.stash.get(MEASURED, None)
    if measured is None:
        return (yield)
    with measured.meter.span("test", test=item.nodeid) as measured.test:
        result = yield
    if getattr(item, "_excinfo", None):  # exceptions of unittest's tests
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
    """Compute the remaining energies; a worker hands over its results."""
    found = session.config.stash.get(SESSION, None)
    if found is None:
        return
    with _usage_errors():
        found.close()
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[WORKER_RESULTS] = json.dumps([one.to_json() for one in found.results])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add the results of a worker."""
    del error
    results = getattr(node, "workeroutput", {}).get(WORKER_RESULTS)
    if results:
        _session(node.config).add_results(json.loads(results))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table if a test was measured or should have been."""
    found = config.stash.get(SESSION, None)
    if found is not None and found.results:
        terminalreporter.section("energy")
        for line in found.table():
            terminalreporter.write_line(line)


def _session(config: pytest.Config) -> EnergySession:
    if SESSION not in config.stash:
        from joulelab.integrations.pytest_session import EnergySession  # noqa: PLC0415

        option, workers = config.option, _workers(config)
        is_refused = workers > 1 and not option.joulelab_shared
        refusal = WORKERS_WHY.format(count=workers) if is_refused else ""
        tolerance = _tolerance(option.joulelab_tolerance)
        config.stash[SESSION] = EnergySession(option, tolerance, workers, refusal)
    return config.stash[SESSION]


def _measured(config: pytest.Config, nodeid: str) -> EnergyOfTest:
    """Prepare to measure a test; the first one starts the meter and reads the baselines."""
    session = _session(config)
    with _usage_errors():
        meter = session.meter
        _ = session.baselines
    return EnergyOfTest(meter, nodeid)


@contextmanager
def _usage_errors() -> Iterator[None]:
    """End the session with one line for an error that no test caused."""
    try:
        yield
    except JoulelabError as error:
        pytest.exit(f"joulelab: {error}", returncode=pytest.ExitCode.USAGE_ERROR)


def _workers(config: pytest.Config) -> int:
    """Return the number of processes that run tests, in an xdist worker and in its parent."""
    worker = getattr(config, "workerinput", None)
    return worker["workercount"] if worker else getattr(config.option, "numprocesses", None) or 1


def _tolerance(text: str | None) -> float:
    try:
        return DEFAULT_TOLERANCE if text is None else parse_percent(text)
    except ValueError:
        raise pytest.UsageError(
            f"--joulelab-tolerance {text}: give a percentage like 10%"
        ) from None


def _is_own(mark: pytest.Mark) -> bool:
    return not mark.args and ARGUMENTS.issuperset(mark.kwargs)


def _check(item: pytest.Item, mark: pytest.Mark) -> None:
    if not _is_own(mark):
        unknown = set(mark.kwargs) - ARGUMENTS
        raise pytest.UsageError(
            f"{item.nodeid}: {MARKER} takes budget_j and tolerance by name, not "
            f"{', '.join([*map(repr, mark.args), *sorted(unknown)])}"
        )
    for name, value in mark.kwargs.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and value > 0):
            raise pytest.UsageError(f"{item.nodeid}: {MARKER}({name}={value!r}) must be positive")
