from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.estimator import energies_of
from joulelab.errors import UserError
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import as_log
from joulelab.logs.series import Kind, Meter, MeterRows, _held, to_series
from joulelab.recording.trace_spans import Window


def energy(kind, t_s, value, start_s, stop_s, *, length_s=None):
    """Return the energy in J between two times, and the time without readings."""
    meter = Meter("node", "meter", "log.meter", kind)
    lengths = None if length_s is None else np.array(length_s, dtype=float)
    rows = MeterRows(meter, np.array(t_s, dtype=float), np.array(value, dtype=float), lengths)
    log = as_log([to_series(Path("log.csv"), rows, LogOptions(), [])])
    window = Window(*(round((t - log.origin_s) * 1e9) for t in (start_s, stop_s)))
    [found] = energies_of(log.trace, [window])
    part = found.components.get("node")
    return (part.gross_j, part.gap_s) if part else None


UNEVEN_S = [0, 10, 11, 12, 60, 61, 62, 63, 64, 80]
HELD_W = [60, 300, 310, 300, 60, 61, 0, 300, 310, 60]


def test_held_power_holds_until_the_next_reading():
    true_j = float(np.sum(np.diff(UNEVEN_S) * HELD_W[:-1]))
    assert energy(Kind.HELD_POWER, UNEVEN_S, HELD_W, 0, 80) == pytest.approx((true_j, 0))
    assert energy(Kind.HELD_POWER, UNEVEN_S, HELD_W, 20, 50) == pytest.approx((30 * 300, 0))


def test_held_power_is_unknown_after_a_missing_value():
    value = [100, np.nan, 200, 200]
    found_j, gap_s = energy(Kind.HELD_POWER, [0, 10, 13, 20], value, 0, 20)
    assert gap_s == pytest.approx(3)
    assert found_j == pytest.approx(10 * 100 + 7 * 200 + 3 * 150, rel=0.05)


@pytest.mark.parametrize("kind", [Kind.AMOUNT, Kind.MEAN_POWER])
@given(power_w=st.lists(st.floats(0, 500), min_size=5, max_size=40), seed=st.integers(0, 99))
def test_intervals_add_up_from_the_first_time_on(kind, power_w, seed):
    length_s = np.random.default_rng(seed).uniform(0.7, 1.3, len(power_w))
    t_s = np.cumsum(length_s)
    value = power_w if kind is Kind.MEAN_POWER else power_w * length_s
    true_j = float((power_w * length_s)[1:].sum())
    found_j, gap_s = energy(kind, t_s, value, t_s[0], t_s[-1])
    assert found_j == pytest.approx(true_j, rel=1e-6, abs=1e-5)
    assert gap_s == 0


def test_pauses_between_intervals_are_gaps():
    t_s = [1, 2, 3, 4, 104, 105, 106, 107]
    found_j, gap_s = energy(Kind.AMOUNT, t_s, [10.0] * 8, 1, 5)
    assert (found_j, gap_s) == (pytest.approx(40, rel=0.01), pytest.approx(1, abs=1e-6))
    assert energy(Kind.AMOUNT, t_s, [10.0] * 8, 1, 107) is None


def test_stated_lengths_leave_the_time_between_runs_unknown():
    t_s, joules, length_s = [600, 4200, 7800], [6000, 9000, 3000], [600, 600, 600]
    assert energy(Kind.AMOUNT, t_s, joules, 3600, 4200, length_s=length_s) == (9000, 0)
    assert energy(Kind.AMOUNT, t_s, joules, 0, 7800, length_s=length_s) is None


def test_stated_lengths_that_overlap_are_an_error():
    with pytest.raises(UserError, match="intervals of 'meter' overlap"):
        energy(Kind.AMOUNT, [10, 12, 14], [1, 1, 1], 0, 14, length_s=[10, 10, 10])


def test_values_that_nothing_can_draw_are_refused(tmp_path):
    rows = MeterRows(
        Meter("plug:a", "plug", "test", Kind.HELD_POWER), np.arange(3.0), np.array([1, 1e300, 1])
    )
    with pytest.raises(UserError, match=r"'plug' cannot be right: it has the value 1e\+300"):
        to_series(tmp_path / "log.csv", rows, LogOptions(), [])


def test_energy_before_an_unknown_stretch_is_not_lost():
    """A counter falls after each stretch of unknown power, whatever it had reached."""
    t_s = np.arange(7.0)
    value = np.array([5.0, 5.0, np.nan, 3.0, 3.0, np.nan, 2.0])
    _, counter = _held(t_s, value)
    steps = np.diff(counter)
    assert steps[[0, 1, 3, 4]].tolist() == [5.0, 5.0, 3.0, 3.0]
    assert (steps[[2, 5]] < 0).all()
