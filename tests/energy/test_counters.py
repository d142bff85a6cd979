"""What an energy counter tells: wraps are undone, what it did not count is a gap and no figure."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.signal import thinning
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
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


def account(channel, t_s, energy_j, start_s, stop_s):
    value = energy_j % channel.wrap if channel.wrap else energy_j
    readings = Readings(np.rint(t_s * 1e9).astype(np.int64), value)
    trace = Trace((channel,), (readings,), header={"intervals_s": [INTERVAL_S]})
    return EnergyEstimator(trace).energies([Window(round(start_s * 1e9), round(stop_s * 1e9))])[0]


def times(length_s=30.0):
    return 10.0 + np.arange(0.0, length_s, INTERVAL_S)


@pytest.mark.parametrize("channel", [RAPL, GPU])
def test_a_counter_that_never_moves_is_absent(channel):
    energy = account(channel, times(), np.full(times().size, 1234.0), 15, 25)
    assert not energy.components
    assert energy.absent[channel.component].startswith(
        f"{channel.source} did not advance for 29.9 s"
    )
    assert np.isnan(energy.gross_j)


@pytest.mark.parametrize("channel", [RAPL, GPU])
def test_what_a_counter_that_stood_still_did_not_count_is_a_gap(channel):
    t_s = times()
    still_s = np.clip(t_s - 18.0, 0.0, 4.0)
    energy = account(channel, t_s, 1000 + POWER_W * (t_s - still_s), 15, 35)
    part = energy.components[channel.component]
    assert part.gap_s == pytest.approx(4.0, abs=0.15)
    assert part.gross_j == pytest.approx(20 * POWER_W, rel=0.005)
    assert any("did not advance for 4.00 s" in note for note in energy.notes)


@pytest.mark.parametrize("channel", [RAPL, GPU])
def test_a_counter_that_catches_up_has_lost_nothing(channel):
    t_s = times()
    shown_s = np.where((t_s > 18.0) & (t_s < 22.0), 18.0, t_s)
    energy = account(channel, t_s, 1000 + POWER_W * shown_s, 15, 35)
    part = energy.components[channel.component]
    assert part.gap_s == 0.0
    assert part.gross_j == pytest.approx(20 * POWER_W, rel=0.005)
    assert energy.notes == ()


@given(stopped_s=st.floats(70.0, 2000.0))
def test_a_counter_that_may_have_wrapped_unseen_is_not_guessed(stopped_s):
    t_s = np.concatenate((times(), 10.0 + 30.0 + stopped_s + np.arange(0.0, 30.0, INTERVAL_S)))
    power_w = 200.0
    stop_s = 35.0 + 30.0 + stopped_s
    energy = account(RAPL, t_s, 1000 + power_w * t_s, 15.0, stop_s)
    assert any("read too late to detect every wrap" in note for note in energy.notes)
    part = energy.components.get("cpu:0")
    if part is None:
        assert "covers only" in energy.absent["cpu:0"]
        return
    assert part.gap_s == pytest.approx(stopped_s, abs=1.0)
    assert part.interval_j[0] < power_w * (stop_s - 15.0) < part.interval_j[1]


def test_a_counter_that_cannot_have_wrapped_twice_is_not_doubted():
    t_s = np.concatenate((times(), 100.0 + np.arange(0.0, 30.0, INTERVAL_S)))
    energy = account(RAPL, t_s, 65_000 + POWER_W * t_s, 15.0, 120.0)
    assert energy.notes == ()
    assert energy.components["cpu:0"].gross_j == pytest.approx(105 * POWER_W, rel=0.005)


@pytest.mark.parametrize(("channel", "leap_j"), [(RAPL, 30_000.0), (GPU, 1e6)])
def test_a_leap_is_no_energy(channel, leap_j):
    t_s = times()
    energy = account(channel, t_s, 1000 + POWER_W * t_s + leap_j * (t_s > 20), 15, 35)
    part = energy.components[channel.component]
    assert part.gross_j == pytest.approx(20 * POWER_W, rel=0.005)
    assert part.gap_s == pytest.approx(INTERVAL_S, abs=0.01)
    [note] = energy.notes
    assert "jumped by more than any device can draw" in note


def test_a_reset_is_said():
    t_s = times()
    energy = account(GPU, t_s, np.where(t_s < 20, 1e6, 0.0) + POWER_W * t_s, 15, 35)
    assert energy.components["gpu:0"].gross_j == pytest.approx(20 * POWER_W, rel=0.005)
    [note] = energy.notes
    assert note == "gpu:0: nvml.energy_counter was reset"


def test_a_rack_is_no_leap():
    t_s = times()
    energy = account(GPU, t_s, 60_000.0 * t_s, 15, 35)
    assert energy.components["gpu:0"].gross_j == pytest.approx(20 * 60_000.0, rel=0.005)
    assert energy.notes == ()


@pytest.mark.parametrize("channel", [RAPL, GPU])
def test_a_long_recording_tells_the_same(channel, monkeypatch):
    t_s = np.concatenate((times(3000.0), 3090.0 + np.arange(0.0, 100.0, INTERVAL_S)))
    counted_s = t_s - np.clip(t_s - 1000.0, 0.0, 50.0)
    energy_j = 1000 + POWER_W * counted_s + 1e6 * (t_s > 2000)
    energy_j[20_000:20_010] = np.nan
    whole = account(channel, t_s, energy_j, 500.0, 3150.0)
    monkeypatch.setattr(thinning, "MIN_READINGS", 1000)
    monkeypatch.setattr(thinning, "BLOCK", 7777)
    left_out = account(channel, t_s, energy_j, 500.0, 3150.0)
    assert left_out.notes == whole.notes
    one, other = (found.components[channel.component] for found in (whole, left_out))
    assert other.gross_j == pytest.approx(one.gross_j, rel=1e-9)
    assert other.gap_s == pytest.approx(one.gap_s, abs=1e-6)
    assert one.uncertainty_j / 2 < other.uncertainty_j < 2 * one.uncertainty_j
