"""Two runs on the simulated machine, measured once for all tests of the command line."""

import sys

import pytest
from measured_runs import SCRIPT, joulelab


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """A home with two runs of one script, and what the last one printed."""
    home = tmp_path_factory.mktemp("home")
    script = home / "nested.py"
    script.write_text(SCRIPT)
    command = ("run", "--wait", "--sensors", "simulated", "--", sys.executable, str(script))
    for _ in range(2):
        done = joulelab(*command, home=home)
        assert done.returncode == 0, done.stderr
    return home, done.stderr
