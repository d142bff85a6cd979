"""Boards in memory: errors of windows, and intervals that hold. A small slice of both."""

import numpy as np
import pytest
from benchmarks.sensor_kinds import kinds

from benchmarks import coverage, window_errors

BOARDS = 6
BARS_PCT = {0.05: 4.0, 0.1: 2.0, 0.3: 1.0, 1.0: 1.0}
"""The project's: median error; the 90th percentile three times that."""


@pytest.mark.parametrize("name", ["ideal", "rough"])
@pytest.mark.parametrize("wave", ["steady", "square", "ramps"])
@pytest.mark.parametrize("window_s", BARS_PCT)
def test_windows_are_within_the_bars(name, wave, window_s):
    rng = np.random.default_rng(7)
    error_pct = np.concatenate(
        [window_errors.errors_pct(name, wave, window_s, 40, rng) for _ in range(3 * BOARDS)]
    )
    assert np.median(np.abs(error_pct)) <= BARS_PCT[window_s]
    assert np.percentile(np.abs(error_pct), 90) <= 3 * BARS_PCT[window_s]
    assert abs(error_pct.mean()) < 1.0


@pytest.mark.parametrize("name", ["ideal", "rough"])
def test_bursts_are_worth_their_joules(name):
    rng = np.random.default_rng(8)
    burst_s = window_errors.BURST_S
    error_pct = np.concatenate(
        [window_errors.errors_pct(name, "bursts", burst_s, 40, rng) for _ in range(BOARDS)]
    )
    assert np.median(np.abs(error_pct)) < 1.0
    assert np.percentile(np.abs(error_pct), 90) < 3.0


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_intervals_hold(kind):
    rng = np.random.default_rng(9)
    outcomes = [
        one for wave in coverage.WAVES for one in coverage.outcomes_of(kind, wave, BOARDS, rng)
    ]
    for figure in ("gross", "net"):
        for short in (True, False):
            held_pct, error_pct = coverage.share(outcomes, short, figure)
            # So few boards tell 95 % to within some percent only.
            assert held_pct > 93 - 3 * max(error_pct, 1.0), (figure, short)
