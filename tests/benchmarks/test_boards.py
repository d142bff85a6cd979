"""A small part of the benchmarks of errors and coverage on simulated boards."""

import numpy as np
import pytest
from benchmarks.sensor_kinds import kinds

from benchmarks import coverage, window_errors

BOARDS = 6
LIMITS_PCT = {0.05: 4.0, 0.1: 2.0, 0.3: 1.0, 1.0: 1.0}
"""The project's limits for the median error; three times that for the 90th percentile."""


@pytest.mark.parametrize("name", ["ideal", "rough"])
@pytest.mark.parametrize("wave", ["steady", "square", "ramps"])
@pytest.mark.parametrize("window_s", LIMITS_PCT)
def test_errors_of_windows_are_within_the_limits(name, wave, window_s):
    rng = np.random.default_rng(7)
    error_pct = np.concatenate(
        [window_errors.errors_pct(name, wave, window_s, 40, rng) for _ in range(3 * BOARDS)]
    )
    assert np.median(np.abs(error_pct)) <= LIMITS_PCT[window_s]
    assert np.percentile(np.abs(error_pct), 90) <= 3 * LIMITS_PCT[window_s]
    assert abs(error_pct.mean()) < 1.0


@pytest.mark.parametrize("name", ["ideal", "rough"])
def test_errors_of_bursts_are_small(name):
    rng = np.random.default_rng(8)
    burst_s = window_errors.BURST_S
    error_pct = np.concatenate(
        [window_errors.errors_pct(name, "bursts", burst_s, 40, rng) for _ in range(BOARDS)]
    )
    assert np.median(np.abs(error_pct)) < 1.0
    assert np.percentile(np.abs(error_pct), 90) < 3.0


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_intervals_cover_the_truth(kind):
    rng = np.random.default_rng(9)
    outcomes = [
        one for wave in coverage.WAVES for one in coverage.outcomes_of(kind, wave, BOARDS, rng)
    ]
    for quantity in ("gross", "net"):
        for short in (True, False):
            covered_pct, error_pct = coverage.coverage(outcomes, short, quantity)
            # With so few boards, the coverage itself is uncertain by some percent.
            assert covered_pct > 93 - 3 * max(error_pct, 1.0), (quantity, short)
