import pytest
from desk import PLAN, lay_out, run


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """A small study on a simulated machine."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "plan.toml").write_text(PLAN)
    result = run("joulelab study plan.toml --out mine", folder)
    assert result.returncode == 0, result.stderr
    return folder / "mine"


@pytest.fixture
def desk(tmp_path):
    """A folder in which the files that examples name are there."""
    lay_out(tmp_path)
    return tmp_path
