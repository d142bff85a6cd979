"""Meters that state the time they average over, in virtual time: three kinds of them say the same.

Loads are square waves. A meter is polled at regular times, each a little late, and its value is up
to 5 ms old.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.signal import Source, energy_curve
from joulelab.energy.signal.stated_windows import as_shown
from joulelab.recording.trace import Readings
from joulelab.sensors.sensor import Channel, Provenance, Quantity

BEGIN_S, RECORDED_S = 3.0, 20.0
LOW_W, HIGH_W = 200.0, 700.0


class Square:
    def __init__(self, half_s, high_share=0.5, phase_s=0.0):
        self.period_s, self.high_share, self.phase_s = 2 * half_s, high_share, phase_s

    def until_j(self, t_s):
        at_s = np.asarray(t_s) + self.phase_s
        whole, part = np.divmod(at_s / self.period_s, 1.0)
        high_s = (whole * self.high_share + np.minimum(part, self.high_share)) * self.period_s
        return LOW_W * at_s + (HIGH_W - LOW_W) * high_s

    def mean_w(self, stop_s, length_s):
        return (self.until_j(stop_s) - self.until_j(stop_s - length_s)) / length_s


KINDS = {
    "moving average": lambda load, t_s, window_s: load.mean_w(t_s, window_s),
    "mean of each window": lambda load, t_s, window_s: load.mean_w(
        np.floor(t_s / window_s) * window_s, window_s
    ),
    "momentary": lambda load, t_s, _: load.mean_w(t_s, 1e-4),
}


def channel(window_s):
    return Channel(
        component="node",
        quantity=Quantity.POWER,
        source="power_meter",
        provenance=Provenance.MEASURED,
        update_period_s=window_s,
        window_s=window_s,
        unverified_window=True,
        polled=True,
        resolution=1e-6,
    )


def polled(load, kind, window_s, every_s, *, seed=0, step_w=1e-6, noise_w=0.0):
    rng = np.random.default_rng(seed)
    t_s = np.arange(BEGIN_S, BEGIN_S + RECORDED_S, every_s)
    t_s = t_s + rng.uniform(0, 2e-4, t_s.size)
    value = KINDS[kind](load, t_s - rng.uniform(0, 0.005, t_s.size), window_s)
    value = np.rint((value + noise_w * rng.standard_normal(t_s.size)) / step_w) * step_w
    return Source(channel(window_s), Readings(np.rint(t_s * 1e9).astype(np.int64), value), every_s)


def energies(source, load, length_s):
    """Return spans' energy, its standard uncertainty and the truth, J."""
    start_s = np.linspace(BEGIN_S + 1, BEGIN_S + RECORDED_S - length_s - 0.3, 23)
    stop_s = start_s + length_s
    energy_j, off_j, _ = energy_curve([source], np.append(start_s, stop_s)).energy(start_s, stop_s)
    return energy_j, off_j, load.until_j(stop_s) - load.until_j(start_s)


LOADS = [
    Square(half_s, share, 0.37 * number)
    for number, (half_s, share) in enumerate(
        ((0.4, 0.5), (0.55, 0.3), (0.7, 0.7), (0.9, 0.5), (1.1, 0.4), (0.64, 0.5))
    )
]


@pytest.mark.parametrize(
    ("kind", "window_s", "every_s"),
    [
        ("moving average", 1.0, 0.046),
        ("moving average", 1.0, 0.1),
        ("moving average", 0.1, 0.05),
        ("moving average", 0.05, 0.023),
        ("momentary", 1.0, 0.046),
        ("momentary", 0.1, 0.046),
        ("momentary", 0.05, 0.023),
        ("mean of each window", 0.05, 0.023),
        ("mean of each window", 0.05, 0.02),
    ],
)
@pytest.mark.parametrize("load", LOADS)
def test_energy_of_square_waves_is_right_and_within_its_interval(load, kind, window_s, every_s):
    source = polled(load, kind, window_s, every_s)
    for length_s, bar in ((1.0, 0.08), (4.0, 0.03)):
        energy_j, off_j, true_j = energies(source, load, length_s)
        assert energy_j == pytest.approx(true_j, rel=bar)
        covered = np.abs(energy_j - true_j) <= 1.96 * np.hypot(off_j, 0.02 * energy_j)
        assert covered.mean() >= 0.95


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("every_s", [0.05, 0.1])
def test_a_moving_average_of_whole_watts_is_as_good(load, every_s):
    source = polled(load, "moving average", 1.0, every_s, step_w=1.0)
    for length_s, bar in ((1.0, 0.03), (4.0, 0.01)):
        energy_j, _, true_j = energies(source, load, length_s)
        assert energy_j == pytest.approx(true_j, rel=bar)


# The first load's steps are where the meter's windows begin: its means are momentary values.
@pytest.mark.parametrize("load", LOADS[1:])
@pytest.mark.parametrize("every_s", [0.058, 0.082])
def test_a_meter_that_is_read_less_often_than_its_window_is_recognised_too(load, every_s):
    kinds = {kind: polled(load, kind, 0.05, every_s).as_shown().channel.window_s for kind in KINDS}
    assert kinds == {"moving average": 0.05, "mean of each window": 0.05, "momentary": 0.0}


def test_a_noisy_momentary_value_is_no_average():
    load = Square(0.7)
    source = polled(load, "momentary", 1.0, 0.05, noise_w=50.0)
    assert source.as_shown().channel.window_s == 0
    energy_j, off_j, true_j = energies(source, load, 4.0)
    assert energy_j == pytest.approx(true_j, rel=0.05)
    assert np.all(np.abs(energy_j - true_j) <= 1.96 * np.hypot(off_j, 0.02 * energy_j))


def test_a_mean_of_each_window_is_one_reading_each():
    load = Square(0.7)
    source = polled(load, "mean of each window", 1.0, 0.05).as_shown()
    t_s = source.readings.t_ns * 1e-9
    assert source.interval_s == 1.0
    assert np.diff(t_s) == pytest.approx(np.ones(t_s.size - 1), abs=0.06)
    assert source.readings.value == pytest.approx(load.mean_w(np.rint(t_s), 1.0), rel=1e-3)


def test_a_mean_that_is_weighted_is_not_resolved_but_not_shifted():
    load, t_s = Square(0.9), np.arange(BEGIN_S, BEGIN_S + RECORDED_S, 0.05)
    ages_s = np.arange(0, 3, 0.01)
    weight = np.exp(-ages_s / 0.3) / np.exp(-ages_s / 0.3).sum()
    value = sum(w * load.mean_w(t_s - age, 0.01) for w, age in zip(weight, ages_s, strict=True))
    readings = Readings(np.rint(t_s * 1e9).astype(np.int64), value)
    found, same, *_ = as_shown(channel(1.0), readings, 0.05)
    assert same is readings
    assert found.window_s == 1.0
    assert found.update_period_s < 0.05


def test_meters_whose_window_is_known_or_is_not_their_period_are_left_alone():
    load = Square(0.7)
    stated = polled(load, "momentary", 1.0, 0.05)
    for fields in ({"unverified_window": False}, {"window_s": 0.5}, {"window_s": 0.01}):
        other = Source(
            Channel(**{**stated.channel.to_json(), **fields}), stated.readings, stated.interval_s
        )
        assert other.as_shown() == other


def test_a_gap_in_a_moving_average_stays_a_gap():
    load = Square(0.7)
    source = polled(load, "moving average", 1.0, 0.05)
    source.readings.value[100:200] = np.nan
    start_s, stop_s = np.array([5.0, 10.0]), np.array([7.0, 11.0])
    energy_j, _, gap_s = energy_curve([source], start_s).energy(start_s, stop_s)
    # The window after the gap reaches a second into it: 8 to 12 s of 8 to 13 s are not known.
    assert gap_s == pytest.approx([0.0, 1.0], abs=0.11)
    assert energy_j[0] == pytest.approx(load.until_j(7.0) - load.until_j(5.0), rel=0.02)


@settings(deadline=None, max_examples=50)
@given(
    power_w=st.lists(st.floats(50, 500), min_size=60, max_size=200),
    first=st.integers(0, 15),
    windows=st.integers(1, 3),
)
def test_whole_windows_of_any_moving_average_are_exact(power_w, first, windows):
    cell_s, cells = 0.1, 10
    # Power changes so that it can be recognised: ramps are longer than a reading.
    power_w = np.repeat([*power_w[:30], 50.0, 500.0, 50.0], 7)
    until_j = np.append(0.0, np.cumsum(power_w) * cell_s)
    means_w = (until_j[cells:] - until_j[:-cells]) / (cells * cell_s)
    t_s = BEGIN_S + cell_s * np.arange(means_w.size)
    readings = Readings(np.rint(t_s * 1e9).astype(np.int64), means_w)
    found = energy_curve([Source(channel(1.0), readings, cell_s)], np.zeros(0))
    start = first + cells
    stop = start + windows * cells
    at_s = BEGIN_S + cell_s * (np.array([start, stop]) - cells)
    energy_j, *_ = found.energy(at_s[:1], at_s[1:])
    assert energy_j[0] == pytest.approx(until_j[stop] - until_j[start], rel=1e-6)
