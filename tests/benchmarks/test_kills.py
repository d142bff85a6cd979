"""A short part of the benchmark of kills; tests/study has kills of studies."""

import pytest
from benchmarks.faults.kills import kill


@pytest.mark.parametrize(
    ("target", "name"), [("recorder", "SIGKILL"), ("wrapper --wait", "SIGTERM")]
)
def test_a_kill_loses_nothing_and_leaves_nothing_behind(target, name):
    case = kill(target, name, 1)
    assert case.hit
    assert not case.wrong
