import pytest
import synthetic_study
from hypothesis import Phase, settings

from joulelab.cli.app import main

# A busy machine is no error, the same code gives the same result, and a failure is told at once:
# `--hypothesis-profile=search` looks for new ones and makes them small.
settings.register_profile(
    "joulelab", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)
settings.register_profile("search", deadline=None)
settings.load_profile("joulelab")


@pytest.fixture(scope="session")
def synthetic():
    """The helper that writes study directories with known, invented figures."""
    return synthetic_study


@pytest.fixture
def run(capsys):
    """Runs ``joulelab`` with some arguments; gives its exit code and what it printed."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call
