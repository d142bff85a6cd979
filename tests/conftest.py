import pytest
import synthetic_study
from hypothesis import Phase, settings

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
