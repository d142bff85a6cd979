"""Energy from slow and coarse meters whose pace is not stated, in virtual time.

The meters show the mean over a window, update each T, and show it some time later; readings are
rounded as real ones are.
"""

import numpy as np
import pytest
from fake_meters import square

from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.signal import Source, energy_curve, freezes, observed
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.meters.entries import parse_entry
from joulelab.sensors.meters.polling import channels_of
from joulelab.sensors.sensor import Reading

STEP_S = 0.01
RECORDED_S = 120
BEFORE_S = 20


class Meter:
    """A meter of a load: power in steps of 10 ms."""

    def __init__(self, power_w, *, period_s=1.0, window_s=1.0, delay_s=0.3, phase=0.4):
        self.edges_s = np.arange(power_w.size + 1) * STEP_S
        self.energy_j = np.append(0.0, np.cumsum(power_w) * STEP_S)
        self.period_s, self.window_s, self.delay_s = period_s, window_s, delay_s
        self.phase_s = phase * period_s

    def true_j(self, start_s, stop_s):
        return float(np.diff(np.interp((start_s, stop_s), self.edges_s, self.energy_j))[0])

    def shown(self, t_s):
        since_s = t_s - self.delay_s - self.phase_s
        new_s = np.floor(since_s / self.period_s) * self.period_s + self.phase_s
        until_j, from_j = (
            np.interp(at, self.edges_s, self.energy_j) for at in (new_s, new_s - self.window_s)
        )
        return (until_j - from_j) / self.window_s, until_j + 5e5

    def trace(self, channels, rng, watts=1.0, joules=3600.0):
        polls_s = BEFORE_S + np.arange(RECORDED_S) + rng.uniform(0, 1)
        polls_s += rng.uniform(0, 0.03, polls_s.size)
        power_w, energy_j = self.shown(polls_s)
        columns = {
            "power_w": np.round(power_w / watts) * watts,
            "energy_j": np.floor(energy_j / joules) * joules,
        }
        return Trace.of(
            channels,
            [
                Reading(int(t * 1e9) + i, i, float(columns[channel.quantity][k]))
                for k, t in enumerate(polls_s)
                for i, channel in enumerate(channels)
            ],
        )


def channels(**table):
    return channels_of("m", parse_entry("m", {"address": "x"} | table))


def steps(rng):
    """Power that stays for 5 to 25 s, with some noise."""
    lengths = rng.uniform(5, 25, 40)
    levels = np.repeat(rng.choice([120.0, 300.0, 420.0], 40), (lengths / STEP_S).astype(int))
    count = (RECORDED_S + 2 * BEFORE_S) * 100
    noise = np.repeat(rng.normal(0, 8, count // 20), 20)
    return levels[:count] + noise


def levels(rng):
    """Power that stays at one of a few levels for 5 to 25 s."""
    lengths_s = rng.uniform(5, 25, 40)
    return np.repeat(rng.choice([120.0, 300.0, 420.0], 40), (lengths_s / STEP_S).astype(int))


def squares(rng):
    """Power that switches between two levels, each of which lasts 4 to 20 s."""
    period_s = rng.uniform(8, 40)
    t_s = np.arange((RECORDED_S + 2 * BEFORE_S) * 100) * STEP_S + rng.uniform(0, period_s)
    return np.where(t_s % period_s < period_s / 2, 300.0, 90.0)


TASMOTA = channels(kind="tasmota")
REDFISH = channels(kind="redfish")
KWH = channels(kind="http-json", energy="e", energy_unit="kWh", resolution_j=3600)
METERS = {  # Channels, how the meter behaves, and the largest mean error of 60 s.
    "mean of 1 s": (TASMOTA, {}, 0.02),
    "mean of 3 s": (TASMOTA, {"window_s": 3.0, "delay_s": 0.5}, 0.03),
    "instant": (TASMOTA, {"window_s": 0.01, "delay_s": 0.0}, 0.03),
    "updates each 5 s": (REDFISH, {"period_s": 5.0, "window_s": 5.0, "delay_s": 1.0}, 0.05),
    "updates each 10 s": (REDFISH, {"period_s": 10.0, "window_s": 2.0, "delay_s": 1.0}, 0.10),
    "whole watt-hours": (KWH, {}, 0.05),
}


@pytest.mark.parametrize("name", METERS)
def test_intervals_of_slow_meters_contain_the_truth(name):
    own, behaviour, most = METERS[name]
    rng = np.random.default_rng(7)
    covered, errors = [], []
    for _ in range(8):
        meter = Meter(steps(rng), phase=rng.uniform(), **behaviour)
        trace = meter.trace(own, rng)
        for length_s in (60.0, 20.0, 5.0, 2.0):
            start_s = rng.uniform(BEFORE_S + 20, BEFORE_S + RECORDED_S - length_s - 5)
            edges_ns = [round(one * 1e9) for one in (start_s, start_s + length_s)]
            (energy,) = EnergyEstimator(trace, None, edges_ns).energies([Window(*edges_ns)])
            true_j = meter.true_j(start_s, start_s + length_s)
            if not energy.components:
                # A counter of whole watt-hours may say nothing about 2 s.
                assert own is KWH
                continue
            covered.append(energy.interval_j[0] <= true_j <= energy.interval_j[1])
            if length_s == 60.0:
                errors.append(abs(energy.gross_j / true_j - 1))
    assert np.mean(covered) >= 0.93
    assert np.mean(errors) < most


SPARSE = {
    "instant each 10 s": (REDFISH, {"period_s": 10.0, "window_s": 0.01, "delay_s": 0.5}),
    "instant each 10 s, as stated": (
        channels(kind="redfish", update_period_s=10.0),
        {"period_s": 10.0, "window_s": 0.01, "delay_s": 0.5},
    ),
    "mean of 5 s each 5 s": (REDFISH, {"period_s": 5.0, "window_s": 5.0, "delay_s": 1.0}),
    "mean of 5 s each 1 s": (TASMOTA[:1], {"window_s": 5.0, "delay_s": 0.5}),
}


@pytest.mark.parametrize("load", [levels, squares])
@pytest.mark.parametrize("name", SPARSE)
def test_intervals_allow_for_what_happened_between_two_readings(name, load):
    own, behaviour = SPARSE[name]
    rng = np.random.default_rng(11)
    lengths_s = np.tile([1.0, 2.0, 5.0, 10.0, 20.0], 10)
    covered = {}
    for _ in range(10):
        power_w = load(rng)[: (RECORDED_S + 2 * BEFORE_S) * 100]
        meter = Meter(power_w, phase=rng.uniform(), **behaviour)
        starts_s = rng.uniform(BEFORE_S + 15, BEFORE_S + RECORDED_S - 25, lengths_s.size)
        edges_ns = np.rint(np.stack((starts_s, starts_s + lengths_s), axis=1) * 1e9)
        spans = [Window(int(start), int(stop)) for start, stop in edges_ns]
        energies = EnergyEstimator(meter.trace(own, rng)).energies(spans)
        for start_s, length_s, energy in zip(starts_s, lengths_s, energies, strict=True):
            true_j = meter.true_j(start_s, start_s + length_s)
            if energy.components:  # The same value for a minute may be taken for a frozen meter.
                found = energy.interval_j[0] <= true_j <= energy.interval_j[1]
                covered.setdefault(length_s, []).append(found)
    assert min(map(len, covered.values())) > 90
    assert min(map(np.mean, covered.values())) >= 0.93


def test_the_update_period_shows_in_the_readings():
    rng = np.random.default_rng(1)
    meter = Meter(steps(rng), period_s=5.0, window_s=5.0)
    readings = meter.trace(REDFISH, rng).series[0]
    channel, new, interval_s = observed(REDFISH[0], readings, 1.0)
    assert channel.update_period_s == pytest.approx(5.0, abs=0.2) == interval_s
    assert channel.time_uncertainty_s > REDFISH[0].time_uncertainty_s
    assert new.t_ns.size == pytest.approx(RECORDED_S / 5, abs=3)
    # While it could not be asked nothing is new.
    readings.value[40:80] = np.nan
    _, new, _ = observed(REDFISH[0], readings, 1.0)
    outage_ns = readings.t_ns[[41, 78]]
    assert not np.any((new.t_ns > outage_ns[0]) & (new.t_ns < outage_ns[1]))


def test_what_a_slow_meter_shows_before_its_first_change_is_no_gap():
    slow = channels(kind="redfish", update_period_s=10.0)
    value = np.where(np.arange(120) < 60, 100.0, 300.0)
    trace = Trace.of(slow, [Reading(k * 10**9, 0, float(v)) for k, v in enumerate(value)])
    (energy,) = EnergyEstimator(trace).energies([Window(5 * 10**9, 35 * 10**9)])
    assert energy.gross_j == pytest.approx(3000.0)
    assert energy.components["node"].gap_s == 0


def test_a_server_that_takes_three_seconds_has_no_gaps():
    t_ns = (np.arange(0, 60, 3.1) * 1e9).astype(np.int64)
    readings = Readings(t_ns, np.full(t_ns.size, 100.0))
    channel, _, interval_s = observed(REDFISH[0], readings, 1.0)
    assert interval_s == pytest.approx(3.1)
    assert channel.time_uncertainty_s > REDFISH[0].time_uncertainty_s
    curve = energy_curve([Source(channel, readings, interval_s)], np.zeros(0))
    assert not curve.curve.gap.any()


def test_a_regular_load_is_not_taken_for_a_slow_meter():
    t_s = np.arange(0, 120, 1.0)
    readings = Readings((t_s * 1e9).astype(np.int64), np.where(t_s % 20 < 10, 300.0, 100.0))
    channel, _, _ = observed(TASMOTA[0], readings, 1.0)
    assert channel.update_period_s == 1.0
    # But it may be one.
    assert channel.time_uncertainty_s > 3


@pytest.mark.parametrize("power_w", [65.0, 100.0, 300.0])
def test_a_counter_of_watt_hours_counts_between_its_steps_only(power_w):
    meter = Meter(np.full((RECORDED_S + 2 * BEFORE_S) * 100, power_w))
    trace = meter.trace(KWH, np.random.default_rng(2))
    curve = energy_curve([Source(*observed(KWH[0], trace.series[0], 1.0))], np.zeros(0)).curve
    assert curve.power_w == pytest.approx(np.full(curve.power_w.size, power_w), rel=0.09)
    assert not curve.gap.any()


def test_a_counter_that_does_not_reach_its_next_step_gives_no_energy():
    meter = Meter(np.full((RECORDED_S + 2 * BEFORE_S) * 100, 20.0))
    trace = meter.trace(KWH, np.random.default_rng(3))
    assert energy_curve([Source(*observed(KWH[0], trace.series[0], 1.0))], np.zeros(0)) is None


def test_a_fine_counter_that_stands_still_is_still_a_gap():
    fine = channels(kind="http-json", energy="e", energy_unit="Wh", resolution_j=3.6)
    t_s = np.arange(0, 120, 1.0)
    counted = np.where(t_s < 40, t_s, np.where(t_s < 80, 40, t_s - 40)) * 100.0
    readings = Readings((t_s * 1e9).astype(np.int64), np.floor(counted / 3.6) * 3.6)
    curve = energy_curve([Source(*observed(fine[0], readings, 1.0))], np.zeros(0)).curve
    gap_s = float(curve.energy(np.array([10.0]), np.array([110.0]))[2][0])
    assert 35 < gap_s < 45


def test_a_counter_that_updates_each_minute_counts_no_minute_as_a_second():
    fine = channels(kind="http-json", energy="e", energy_unit="Wh", resolution_j=3.6)
    t_s = np.arange(0, 400, 1.0)
    readings = Readings((t_s * 1e9).astype(np.int64), np.floor((t_s + 20) / 60) * 60 * 400.0)
    columns = readings.t_ns.tolist(), [0] * 400, readings.value.tolist()
    trace = Trace.of(fine, [Reading(*one) for one in zip(*columns, strict=True)])
    window = Window(round(100e9), round(160e9))
    (energy,) = EnergyEstimator(trace).energies([window])
    assert energy.gross_j == pytest.approx(400 * 60, rel=0.01)
    assert energy.interval_j[0] < 400 * 60 < energy.interval_j[1]


def test_a_counter_that_is_asked_nearly_in_step_loses_nothing_at_the_ends():
    fine = channels(kind="http-json", energy="e", energy_unit="Wh")
    _, energy_j = square(90.0, 300.0, 14.0, 0.4)
    rng = np.random.default_rng(6)
    for begin_s in np.arange(0.0, 1.0, 0.02):
        # The reply is of some time between question and answer.
        t_s = 10 + begin_s + 1.03 * np.arange(60) + rng.uniform(0, 0.06, 60)
        at_s = np.floor(t_s + rng.uniform(-0.04, 0.04, 60))
        counted = [
            Reading(round(t * 1e9), 0, round(energy_j(at) / 3.6) * 3.6)
            for t, at in zip(t_s, at_s, strict=True)
        ]
        spans = [Window(13 * 10**9, 68 * 10**9)]
        (energy,) = EnergyEstimator(Trace.of(fine, counted)).energies(spans)
        assert energy.components["plug:m"].gap_s < 0.6
        assert energy.interval_j[0] < energy_j(68) - energy_j(13) < energy.interval_j[1]


def test_a_frozen_meter_of_a_noisy_load_is_a_gap():
    rng = np.random.default_rng(4)
    value = np.round(300 + rng.normal(0, 8, 120), 1)
    value[60:100] = value[60]
    plug = channels(kind="shelly")
    found = freezes(plug[0], value)
    assert found[61:100].all()
    assert not found[:60].any()
    trace = Trace.of(plug[:1], [Reading(k * 10**9, 0, float(v)) for k, v in enumerate(value)])
    (energy,) = EnergyEstimator(trace).energies([Window(10 * 10**9, 110 * 10**9)])
    assert any("did not change for 38" in note for note in energy.notes)
    # Whole watts of an idle machine may well repeat, and so do the values of a slow meter.
    assert not freezes(TASMOTA[0], np.round(value / 10)).any()
    assert not freezes(plug[0], np.repeat(value[:12], 10)).any()
