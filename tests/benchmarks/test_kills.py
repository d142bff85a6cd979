"""A short part of the benchmark of kills; tests/study has kills of studies."""

import signal

import pytest
from benchmarks.faults.kills import kill


@pytest.mark.parametrize(
    ("target", "number"),
    [("recorder", signal.SIGKILL), ("wrapper --wait", signal.SIGTERM)],
)
def test_a_kill_loses_nothing_and_leaves_nothing_behind(target, number):
    case = kill(target, number, 1)
    assert case.hit
    assert not case.wrong
