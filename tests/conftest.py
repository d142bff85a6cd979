import pytest
import synthetic_study
from hypothesis import Phase, settings

from joulelab.cli.app import main

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


@pytest.fixture
def run(capsys):
    """Run ``joulelab`` with some arguments; return its exit code, output and errors."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call
