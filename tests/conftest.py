import os

import factors_study
import pytest
import refresh_h100
import synthetic_study
from hypothesis import Phase, settings

from joulelab.carbon.site import ENVIRONMENT
from joulelab.cli.app import main
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

# Workers of pytest-xdist have it; without it, output that is no terminal is as wide as it needs.
# GNU readline, which pytest loads, sets it for child processes alone.
os.environ.pop("COLUMNS", None)
os.unsetenv("COLUMNS")

# Examples are the same in every run, and failures are reported without shrinking. To search for new
# failures, run with `--hypothesis-profile=search`.
settings.register_profile(
    "joulelab", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)
settings.register_profile("search", deadline=None)
settings.load_profile("joulelab")


@pytest.fixture(scope="session")
def synthetic():
    """The helper that writes study directories with known, invented values."""
    return synthetic_study


@pytest.fixture(scope="session")
def factor_studies(tmp_path_factory):
    """Two invented studies with factors, on two machines; not to be written into."""
    return factors_study.write_factors(synthetic_study, tmp_path_factory.mktemp("factors"))


@pytest.fixture(scope="session")
def h100_study(tmp_path_factory):
    """The recording of sixteen models on an H100, as a study; not to be written into."""
    directory = tmp_path_factory.mktemp("h100") / "h100"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOULELAB_HOME", str(directory.with_name("home")))
        with pytest.raises(SystemExit) as stop:
            main(["import-study", *refresh_h100.ARGUMENTS, "--out", str(directory)])
    assert stop.value.code == 0
    return directory


@pytest.fixture(scope="session")
def factors(factor_studies, few_resamples):
    """The analysis of the studies with factors, with few resamples."""
    from joulelab.findings.all import analyze
    from joulelab.findings.tables import StudyTables

    with pytest.MonkeyPatch.context() as patch:
        few_resamples(patch)
        return analyze(StudyTables.read(factor_studies))


@pytest.fixture(scope="session")
def h100(h100_study):
    """The analysis of the recording of sixteen models on an H100."""
    from joulelab.findings.all import analyze
    from joulelab.findings.tables import StudyTables

    return analyze(StudyTables.read([h100_study]))


@pytest.fixture(scope="session")
def busy_machine():
    """A function that makes a machine at 7 W, on which others use the threads of a waveform."""

    def make(threads):
        power = {"kind": "counter", "update_period_s": 0.0001}
        use = {"component": "cpu", "update_period_s": 0.001, "interval_s": 0.1}
        sources = (
            SimulatedSource(component="cpu:0", waveform=Waveform.constant(7.0), **power),
            SimulatedSource(waveform=threads, kind="use", **use),
            SimulatedSource(waveform=Waveform.constant(0.0), kind="job_use", **use),
        )
        return SimulatedMachine(sources).spec()

    return make


@pytest.fixture(scope="session")
def few_resamples():
    """A function that patches the bootstrap to a few resamples, where intervals do not matter."""

    def apply(patch):
        from joulelab.stats import ranks

        patch.setattr(ranks, "RESAMPLES", 199)
        patch.setattr(ranks, "FEWEST_RESAMPLES", 199)
        patch.setattr(ranks, "_EXACT", 4)

    return apply


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of the test's own, which does not exist yet, and no site in the environment."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    for variable in ENVIRONMENT.values():
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "home"


@pytest.fixture
def run(capsys):
    """Run ``joulelab`` with some arguments; return its exit code, output and errors."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture
def printed(run):
    """Run ``joulelab`` with some arguments, which must succeed; return its output."""

    def call(*arguments):
        code, out, err = run(*arguments)
        assert code == 0, err
        return out

    return call


@pytest.fixture
def refused(run):
    """Run ``joulelab`` with some arguments, which must end with 2 and one line; return the line."""

    def call(*arguments):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        return err

    return call
