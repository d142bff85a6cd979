"""A gap of one source, of which another source covers all, a part, or nothing."""

import pytest

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Provenance, Quantity, Reading

S = 10**9
SAMPLES = Channel(
    component="gpu:0",
    quantity=Quantity.POWER,
    source="samples",
    provenance=Provenance.SIMULATED,
    update_period_s=0.1,
    window_s=0.1,
)
# Its scale is known less well, so that it only fills gaps.
COUNTER = Channel(
    component="gpu:0",
    quantity=Quantity.ENERGY,
    source="counter",
    provenance=Provenance.SIMULATED,
    update_period_s=0.1,
    gain_uncertainty=0.1,
    priority=1,
)


def account(counted):
    """100 W over 20 s; samples are lost from 5 to 15 s, the counter is read at these seconds."""
    readings = [Reading(i * S // 10, 0, 100.0) for i in range(201) if not 50 < i <= 150]
    readings += [Reading(t_s * S, 1, 100.0 * t_s) for t_s in counted]
    accounts = EnergyEstimator(Trace.of([SAMPLES, COUNTER], readings))
    [energy] = accounts.energies([Window(2 * S, 18 * S)])
    return energy


@pytest.mark.parametrize(
    ("counted", "gap_s"),
    [
        (range(21), 0.0),
        (range(8, 21), 3.0),
        (range(13), 3.0),
        (range(8, 13), 6.0),
        (range(5), 10.0),
    ],
    ids=["all", "its end", "its begin", "its middle", "nothing"],
)
def test_what_the_other_source_covers_is_taken_over_and_the_rest_stays_a_gap(counted, gap_s):
    energy = account(counted)
    if gap_s > 8:
        assert "covers only" in energy.absent["gpu:0"]
        return
    part = energy.components["gpu:0"]
    assert part.gap_s == pytest.approx(gap_s, abs=0.2)
    assert part.gross_j == pytest.approx(1600.0, rel=1e-6)


def test_the_more_is_covered_the_surer():
    unsure = [
        account(counted).components["gpu:0"].edge_uncertainty_j
        for counted in (range(21), range(6, 21), range(8, 21), range(8, 13))
    ]
    assert unsure == sorted(unsure)
    assert unsure[0] < unsure[-1] / 3
