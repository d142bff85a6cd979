"""Energy counters: wraps are undone, faults become gaps, and polls reveal their updates."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.signal import thinning
from joulelab.energy.signal.counters import counter_intervals, update_times
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.plausibility import more_than_possible
from joulelab.sensors.sensor import Channel, Provenance, Quantity

RAPL = Channel(
    component="cpu:0",
    quantity=Quantity.ENERGY,
    source="rapl.package-0",
    provenance=Provenance.MEASURED,
    update_period_s=1e-3,
    polled=True,
    wrap=65_532.0,
)
GPU = replace(RAPL, component="gpu:0", source="nvml.energy_counter", update_period_s=0.1, wrap=None)
POWER_W = 50.0
INTERVAL_S = 0.1
both_channels = pytest.mark.parametrize("channel", [RAPL, GPU], ids=["rapl", "gpu"])


def times(length_s=30.0):
    return 10.0 + np.arange(0.0, length_s, INTERVAL_S)


def energy_of(channel, t_s, energy_j, start_s=15.0, stop_s=35.0):
    value = energy_j % channel.wrap if channel.wrap else energy_j
    readings = Readings(np.rint(t_s * 1e9).astype(np.int64), value)
    trace = Trace((channel,), (readings,), header={"intervals_s": [INTERVAL_S]})
    return EnergyEstimator(trace).energies([Window(round(start_s * 1e9), round(stop_s * 1e9))])[0]


def assert_measured(energy, gap_s=0.0, power_w=POWER_W, duration_s=20.0):
    [part] = energy.components.values()
    assert part.gross_j == pytest.approx(duration_s * power_w, rel=0.005)
    assert part.gap_s == pytest.approx(gap_s, abs=0.15 if gap_s else 0)


@both_channels
def test_a_counter_that_never_advances_is_absent(channel):
    energy = energy_of(channel, times(), np.full(times().size, 1234.0))
    assert not energy.components
    assert energy.absent == {channel.component: f"{channel.source} did not advance for 29.9 s"}
    assert np.isnan(energy.gross_j)


@both_channels
def test_a_counter_that_was_stuck_has_a_gap(channel):
    t_s = times()
    energy = energy_of(channel, t_s, 1000 + POWER_W * (t_s - np.clip(t_s - 18.0, 0.0, 4.0)))
    assert_measured(energy, gap_s=4.0)
    assert any("did not advance for 4.00 s" in note for note in energy.notes)


@both_channels
def test_a_counter_that_catches_up_has_lost_nothing(channel):
    t_s = times()
    shown_s = np.where((t_s > 18.0) & (t_s < 22.0), 18.0, t_s)
    energy = energy_of(channel, t_s, 1000 + POWER_W * shown_s)
    assert_measured(energy)
    assert energy.notes == ()


@given(stopped_s=st.floats(70.0, 2000.0))
def test_a_counter_that_may_have_wrapped_twice_has_a_gap(stopped_s):
    t_s = np.concatenate((times(), 10.0 + 30.0 + stopped_s + np.arange(0.0, 30.0, INTERVAL_S)))
    power_w = 200.0
    stop_s = 35.0 + 30.0 + stopped_s
    energy = energy_of(RAPL, t_s, 1000 + power_w * t_s, stop_s=stop_s)
    assert any("read too late to detect every wrap" in note for note in energy.notes)
    part = energy.components.get("cpu:0")
    if part is None:
        assert "covers only" in energy.absent["cpu:0"]
        return
    assert part.gap_s == pytest.approx(stopped_s, abs=1.0)
    assert part.interval_j[0] < power_w * (stop_s - 15.0) < part.interval_j[1]


def test_the_energy_of_a_hole_without_two_wraps_is_known():
    t_s = np.concatenate((times(), 100.0 + np.arange(0.0, 30.0, INTERVAL_S)))
    energy = energy_of(RAPL, t_s, 65_000 + POWER_W * t_s, stop_s=120.0)
    assert_measured(energy, duration_s=105.0, gap_s=60.1)
    [note] = energy.notes
    assert "was not read for a while: only that time's whole energy is known" in note


@pytest.mark.parametrize(
    ("channel", "jump_j"), [(RAPL, 500.0), (RAPL, 30_000.0), (GPU, 800.0), (GPU, 1e6), (GPU, -1e6)]
)
def test_a_jump_or_a_reset_is_a_gap_of_one_interval(channel, jump_j):
    t_s = times()
    energy = energy_of(channel, t_s, 2e6 + POWER_W * t_s + jump_j * (t_s > 20))
    assert_measured(energy, gap_s=INTERVAL_S)
    what = f"jumped by {more_than_possible(channel)}" if jump_j > 0 else "was reset"
    assert energy.notes == (f"{channel.component}: {channel.source} {what}",)


@both_channels
@pytest.mark.parametrize("late_s", [0.3, 0.9])
def test_a_late_timestamp_and_a_pause_are_no_jump(channel, late_s):
    t_s = times()
    power_w = 1500.0
    late = np.where((t_s > 20.0) & (t_s < 20.0 + late_s), 20.0 + late_s, t_s)
    for at_s, shown_s in ((late, t_s), (t_s, np.where(late > t_s, 20.0, t_s))):
        energy = energy_of(channel, at_s, power_w * shown_s)
        assert not any("jumped" in note for note in energy.notes)
        [part] = energy.components.values()
        assert part.gross_j == pytest.approx(20 * power_w, rel=0.005)


@both_channels
@pytest.mark.parametrize("shown_j", [0.0, 5e5, 1.8e13])
def test_a_counter_that_shows_another_number_for_a_while_has_a_gap(channel, shown_j):
    channel = replace(channel, wrap=None)
    t_s = times()
    astray = (t_s > 20.0) & (t_s < 21.0)
    energy = energy_of(channel, t_s, np.where(astray, shown_j, 1e5 + POWER_W * t_s))
    assert_measured(energy, gap_s=1.0)
    assert any("was reset" in note for note in energy.notes)


def test_the_power_of_a_rack_is_no_jump():
    rack = replace(GPU, component="rack")
    energy = energy_of(rack, times(), 60_000.0 * times())
    assert_measured(energy, power_w=60_000.0)
    assert energy.notes == ()


@both_channels
def test_a_thinned_recording_reports_the_same_faults(channel, monkeypatch):
    t_s = np.concatenate((times(3000.0), 3090.0 + np.arange(0.0, 100.0, INTERVAL_S)))
    counted_s = t_s - np.clip(t_s - 1000.0, 0.0, 50.0)
    energy_j = 1000 + POWER_W * counted_s + 1e6 * (t_s > 2000)
    energy_j[20_000:20_010] = np.nan
    whole = energy_of(channel, t_s, energy_j, 500.0, 3150.0)
    monkeypatch.setattr(thinning, "MIN_READINGS", 1000)
    monkeypatch.setattr(thinning, "BLOCK", 7777)
    thinned = energy_of(channel, t_s, energy_j, 500.0, 3150.0)
    assert thinned.notes == whole.notes
    one, other = (found.components[channel.component] for found in (whole, thinned))
    assert other.gross_j == pytest.approx(one.gross_j, rel=1e-9)
    assert other.gap_s == pytest.approx(one.gap_s, abs=1e-6)
    assert one.uncertainty_j / 2 < other.uncertainty_j < 2 * one.uncertainty_j


# The times of updates.

PERIOD_S, PHASE_S = 0.1, 0.037
LOADS = {
    "steady": lambda t: np.full_like(t, 300.0),
    "phases": lambda t: np.where(t % 7 < 3, 600.0, 100.0),
    "ramps": lambda t: 350 + 250 * np.sin(2 * np.pi * t / 9),
}


def polled(interval_s, power_w, count=600, late=0.02, seed=1):
    """Return polls, the update that each showed, and the counter."""
    rng = np.random.default_rng(seed)
    polls_s = 100 + np.cumsum(interval_s * rng.uniform(1, 1 + late, count))
    true_s = np.floor((polls_s - PHASE_S) / PERIOD_S) * PERIOD_S + PHASE_S
    grid_s = np.arange(99.0, polls_s[-1] + 1, 0.001)
    energy_j = np.concatenate(([0.0], np.cumsum(power_w(grid_s[:-1]) * 0.001)))
    return polls_s, true_s, np.interp(true_s, grid_s, energy_j)


@pytest.mark.parametrize(
    ("load", "interval_s"),
    [*((load, interval_s) for load in LOADS for interval_s in (0.03, 0.1)), ("steady", 0.8)],
)
def test_updates_are_found(load, interval_s):
    polls_s, true_s, energy_j = polled(interval_s, LOADS[load])
    found = update_times(polls_s, energy_j, PERIOD_S)
    assert found is not None
    off_s = np.abs(found.time_s - true_s[found.keep])
    assert off_s.max() < max(4 * found.uncertainty_s, 0.002)
    assert found.uncertainty_s < 0.006
    assert (np.diff(found.time_s) > 0).all()


@pytest.mark.parametrize("load", ["phases", "ramps"])
def test_rare_polls_of_uneven_power_are_not_overconfident(load):
    polls_s, true_s, energy_j = polled(0.8, LOADS[load])
    found = update_times(polls_s, energy_j, PERIOD_S)
    if found is not None:
        assert np.abs(found.time_s - true_s[found.keep]).max() < 4 * found.uncertainty_s


def test_random_power_does_not_suggest_a_phase():
    levels_w = np.random.default_rng(2).choice([50.0, 600.0], 100_000)
    off_s, stated_s = [], []
    for seed in range(10):
        polls_s, true_s, energy_j = polled(
            0.1, lambda t: levels_w[(t / 0.11).astype(int)], seed=seed
        )
        found = update_times(polls_s, energy_j, PERIOD_S)
        if found is not None:
            off_s.append(np.median(found.time_s - true_s[found.keep]))
            stated_s.append(found.uncertainty_s)
    assert np.all(np.abs(off_s) < 4 * np.array(stated_s))


def test_updates_are_found_before_and_after_a_reset_of_the_counter():
    polls_s, true_s, energy_j = polled(0.1, LOADS["ramps"])
    energy_j[300:] -= energy_j[300]
    found = counter_intervals(GPU, polls_s, energy_j, 0.1)
    assert found.max_age_s == 0
    assert np.flatnonzero(found.gap).size == 1
    off_s = [np.abs(true_s - edge_s).min() for edge_s in found.edges]
    assert max(off_s) < max(4 * found.latency_uncertainty_s, 0.002)
    gap_s = found.edges[:-1][found.gap][0], found.edges[1:][found.gap][0]
    assert gap_s[0] <= true_s[299] + 0.002
    assert gap_s[1] >= true_s[300] - 0.002


def test_updates_that_polls_cannot_reveal_are_unknown():
    in_step_s, _, energy_j = polled(0.1, LOADS["steady"], late=0.0)
    assert update_times(in_step_s, energy_j, PERIOD_S) is None
    polls_s, _, energy_j = polled(0.1, LOADS["steady"])
    assert update_times(polls_s, energy_j, 0.001) is None
    assert update_times(polls_s[:20], energy_j[:20], PERIOD_S) is None


@pytest.mark.parametrize(("ambiguous", "known"), [(5, True), (15, False)])
def test_many_ambiguous_polls_at_an_end_are_not_dropped(ambiguous, known):
    # The first polls coincide with updates: they show an update, or the one before.
    apart_s = np.append(np.full(ambiguous, 0.1), np.full(400, 0.101))
    polls = 0.0301 + np.append(0.0, np.cumsum(apart_s))
    true_s = np.floor((polls - 0.03) / 0.1) * 0.1 + 0.03
    assert (update_times(polls, 50.0 * true_s, 0.1) is not None) == known
