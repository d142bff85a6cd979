"""The pytest plugin, in sessions on a simulated machine."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from joulelab.compare import compare  # noqa: F401
from joulelab.integrations import pytest_session  # noqa: F401
from joulelab.recording import trace  # noqa: F401
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

# pytester unloads what a session imported; NumPy cannot be imported twice.

pytest_plugins = ["pytester"]

BUSY = """
    import time
    import unittest

    import pytest

    def busy(seconds=0.05):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sum(range(1000))
"""
GPU = SimulatedSource(component="gpu:0", waveform=Waveform.constant(100.0))


@pytest.fixture
def session(pytester, monkeypatch, tmp_path):
    """Runs tests in a session of their own, on a machine that draws 100 W for certain."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JOULELAB_SENSORS", SimulatedMachine((GPU,)).spec())

    def run(tests, *arguments, processes=False):
        pytester.makepyfile(test_it=BUSY + tests)
        arguments = ("-p", "no:cacheprovider", "--strict-markers", *arguments)
        if not processes:
            return pytester.runpytest_inprocess(*arguments)
        plugins = ("-p", "xdist", "-p", "joulelab.integrations.pytest_plugin")
        with monkeypatch.context() as patch:
            # Loading every installed plugin takes most of the time of a new process.
            patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            return pytester.runpytest_subprocess(*plugins, *arguments)

    return run


def test_a_test_that_is_too_short_says_so(session, monkeypatch):
    waveform = Waveform.square(low_w=10.0, high_w=300.0, period_s=0.31)
    slow = SimulatedSource(
        component="gpu:0", waveform=waveform, kind="power", update_period_s=0.2, window_s=0.2
    )
    monkeypatch.setenv("JOULELAB_SENSORS", SimulatedMachine((slow,)).spec())
    result = session(
        """
    def test_short(energy):
        pass

    def test_long(energy):
        busy(3.0)
"""
    )
    result.stdout.fnmatch_lines(["*test_short  (too short: repeat the work in it)", "*test_long"])


def test_only_tests_that_are_significantly_over_budget_fail(session):
    result = session(
        """
    @pytest.mark.energy(budget_j=0.1)
    def test_over():
        busy()

    @pytest.mark.energy(budget_j=1e9)
    @pytest.mark.parametrize("seconds", [0.02, 0.04])
    def test_within(seconds):
        busy(seconds)

    @pytest.mark.energy(budget_j=0.1)
    def test_fails_of_itself():
        assert False, "its own reason"

    @pytest.mark.energy(budget_j=0.1)
    def test_skips():
        pytest.skip("no need")

    @pytest.mark.energy(budget_j=0.1)
    @pytest.mark.xfail(strict=True)
    def test_is_known_to_be_over():
        busy()

    @pytest.mark.energy(budget_j=0.1)
    @pytest.mark.xfail(strict=True)
    def test_is_known_to_fail():
        assert False

    def test_is_not_measured():
        busy()

    class TestOld(unittest.TestCase):
        @pytest.mark.energy(budget_j=0.1)
        def test_over(self):
            busy()

        @pytest.mark.energy(budget_j=0.1)
        def test_fails_of_itself(self):
            busy()
            self.fail("the old reason")

        @pytest.mark.energy(budget_j=0.1)
        def test_skips(self):
            self.skipTest("no need")
"""
    )
    result.assert_outcomes(passed=3, failed=4, skipped=2, xfailed=2)
    text = result.stdout.str()
    assert text.count("energy budget exceeded:") == 2 + 2  # and their lines in the summary
    assert " is significantly more than 0.100 J" in text
    assert "its own reason" in text
    assert "the old reason" in text
    result.stdout.fnmatch_lines(
        ["*= energy =*", "*energy*95 % CI*", "* J *test_it.py::test_over  (budget 0.100 J)"]
    )
    assert "test_is_not_measured" not in text
    assert "simulated energy, not measured" in text


def test_a_budget_within_the_interval_is_reported_and_fails_if_strict(session, monkeypatch):
    unsure = SimulatedMachine((replace(GPU, gain_uncertainty=0.45),))
    monkeypatch.setenv("JOULELAB_SENSORS", unsure.spec())
    tests = """
    @pytest.mark.energy(budget_j=9.0)
    def test_it():
        busy(0.08)
"""
    result = session(tests)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*budget within the interval*", "1 test undecided: --joulelab-strict lets them fail"]
    )
    strict = session(tests, "--joulelab-strict")
    strict.assert_outcomes(failed=1)
    strict.stdout.fnmatch_lines(["energy undecided: budget within the interval*"])


def test_a_budget_without_a_sensor_is_reported_as_not_checked(session, monkeypatch):
    lost = SimulatedMachine((replace(GPU, lost_s=((0.0, 1e12),)),))
    monkeypatch.setenv("JOULELAB_SENSORS", lost.spec())
    tests = "\n    @pytest.mark.energy(budget_j=1.0)\n    def test_it(): busy()\n"
    result = session(tests)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*not measured*test_it*", "*budget not checked*"])
    session(tests, "--joulelab-strict").assert_outcomes(failed=1)


def test_the_fixture_measures_parts_of_a_test_and_the_whole_afterwards(session):
    result = session(
        """
    @pytest.fixture
    def whole(energy):
        yield
        print("afterwards", energy.energy.gross_j > 1.0)

    def test_parts(energy, whole):
        with pytest.raises(ValueError, match="not ended"):
            energy.energy
        with energy.span("fit", index=1) as span:
            busy(0.1)
        assert span.energy.gross_j == pytest.approx(100 * span.duration_s, rel=0.02)
        assert span.attributes["test"].endswith("::test_parts")
""",
        "-s",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*afterwards True*", "* W *test_it.py::test_parts"])


def test_energy_option_measures_every_test_including_coroutines(session):
    pytest.importorskip("anyio")
    result = session(
        """
    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    def test_one():
        busy()

    @pytest.mark.anyio
    async def test_two():
        import asyncio
        await asyncio.sleep(0.05)
""",
        "--joulelab",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["* J *test_it.py::test_one", "* J *test_it.py::test_two"])


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("energy(5)", "takes budget_j and tolerance by name, not 5"),
        ("energy(budget=5)", "takes budget_j and tolerance by name, not budget"),
        ("energy(budget_j=-1)", "energy(budget_j=-1) must be positive"),
        ("energy(budget_j='5 J')", "energy(budget_j='5 J') must be positive"),
    ],
)
def test_invalid_markers_are_usage_errors(session, marker, message):
    result = session(f"\n    @pytest.mark.{marker}\n    def test_it(): busy()\n", "--joulelab")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_a_project_may_have_an_energy_option_and_marker_of_its_own(session, pytester):
    pytester.makeconftest(
        """
    def pytest_addoption(parser):
        parser.addoption("--energy", default="low")
        parser.addoption("--energy-update", action="store_true")
    """
    )
    tests = """
    @pytest.mark.energy("low")
    def test_level(request):
        assert request.config.getoption("--energy") == "high"

    @pytest.mark.energy(mev=5)
    def test_unit(): pass
    """
    result = session(tests, "--energy", "high")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*= energy =*")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--joulelab-update"], "--joulelab-update needs --joulelab-baseline FILE"),
        (["-n", "2", "--joulelab-strict"], "each would include the others' work: use -n 1"),
        (
            ["-n", "2", "--joulelab-shared", "--joulelab-baseline", "x", "--joulelab-update"],
            "cannot be used with several workers",
        ),
        (["--joulelab-tolerance", "ten"], "give a percentage like 10%"),
        (["--joulelab", "--joulelab-sensors", "gpv"], "did you mean gpu"),
        (["--joulelab", "--joulelab-baseline", "test_it.py"], "cannot read test_it.py"),
    ],
)
def test_invalid_options_are_usage_errors(session, arguments, message):
    result = session("\n    def test_it(): busy()\n", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stdout.str() + result.stderr.str()


def test_tests_significantly_above_their_baseline_fail(session, pytester):
    tests = """
    @pytest.mark.energy
    def test_it():
        busy({seconds})
"""
    options = ("--joulelab-baseline", "energy/baseline.json")
    first = session(tests.format(seconds=0.1), *options)
    first.assert_outcomes(passed=1)
    first.stdout.fnmatch_lines(["*no baseline: run with --joulelab-update"])
    path = pytester.path / "energy" / "baseline.json"
    assert not path.exists()
    for _ in range(2):
        session(tests.format(seconds=0.1), *options, "--joulelab-update").assert_outcomes(passed=1)
    data = json.loads(path.read_text())
    (runs,) = data["tests"].values()
    assert len(runs) == 2
    # How much a test scatters depends on what else runs here; the file says how these did.
    gpu = runs[0]["components"]["gpu:0"]
    data["tests"]["test_it.py::test_it"] = [
        {**runs[0], "components": {"gpu:0": {**gpu, "gross_j": gross_j}}}
        for gross_j in (10.0, 10.1, 9.9, 10.05)
    ]
    path.write_text(json.dumps(data))
    over = session(tests.format(seconds=0.4), *options)
    over.assert_outcomes(failed=1)
    over.stdout.fnmatch_lines(["more energy than its baseline: * times its baseline (*; 4 runs)"])
    tolerated = session(tests.format(seconds=0.4), *options, "--joulelab-tolerance", "900%")
    tolerated.assert_outcomes(passed=1)
    session(tests.format(seconds=0.4), *options, "--joulelab-update").assert_outcomes(passed=1)


SHARED = """
    @pytest.mark.energy(budget_j=0.001)
    def test_marked():
        busy()

    def test_fixture(energy):
        busy()

    def test_plain():
        busy()
"""


def test_several_workers_are_refused_with_a_reason(session):
    result = session(SHARED, "-n", "2", processes=True)
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["*not measured*test_marked*", "*each would include the others'*"])
    asked = session(SHARED, "-n", "2", "--joulelab")
    assert asked.ret == pytest.ExitCode.USAGE_ERROR
    assert "each would include the others' work: use -n 1" in asked.stderr.str()


def test_energy_shared_gives_an_upper_bound_and_fails_nothing(session):
    result = session(SHARED, "-n", "2", "--joulelab-shared", processes=True)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "2 workers shared the machine: each value is the whole machine's",
            "* J *test_marked  (budget 1.00 mJ)",
        ]
    )


def test_one_worker_measures_like_no_worker(session):
    result = session(SHARED, "-n", "1", processes=True)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["* J *test_marked  (budget 1.00 mJ)"])


def test_nothing_is_loaded_before_a_test_is_measured():
    heavy = (
        "numpy",
        "psutil",
        "pynvml",
        "joulelab.energy.energy",
        "joulelab.sensors.discovery",
    )
    code = (
        "import sys, joulelab.integrations.pytest_plugin\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
