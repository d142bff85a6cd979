import pytest
import synthetic_study
from hypothesis import settings

# A busy machine is no error.
settings.register_profile("joulelab", deadline=None)
settings.load_profile("joulelab")


@pytest.fixture(scope="session")
def synthetic():
    """The helper that writes study directories with known, invented figures."""
    return synthetic_study
