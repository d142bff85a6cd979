import pytest
import synthetic_study


@pytest.fixture(scope="session")
def synthetic():
    """The helper that writes study directories with known, invented figures."""
    return synthetic_study
