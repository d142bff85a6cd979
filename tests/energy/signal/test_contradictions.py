"""Sources of one component that contradict each other: a superchip's counter, or a wrong one."""

from dataclasses import replace

import numpy as np
import pytest
from doubtful_traces import COUNTER, POWER, RAPL, RING, energy, times, trace_of

from joulelab.energy.signal import channel_role
from joulelab.sensors.sensor import Quantity

AVERAGE = replace(POWER, window_s=1.0, gain_uncertainty=0.065)
SAMPLES = replace(RING, gain_uncertainty=0.065)
OWN_W = 400.0


MODULE = replace(COUNTER, component="module:0", contains=("gpu:0", "cpu:0", "dram:0"))


def sources(ratio, power, counter=COUNTER, duration_s=15.0, interval_s=1.0, own_w=OWN_W):
    """A counter that counts ``ratio`` times the power, next to a ring or polled power."""
    counter = replace(counter, gain_uncertainty=0.065)
    power_s = times(duration_s, 0.02 if power is SAMPLES else interval_s)
    counter_s = times(duration_s, 0.1 if power is AVERAGE else 1.0)
    counted = ratio * own_w * np.floor(counter_s * 10) / 10
    return trace_of((power, power_s, np.full(power_s.size, own_w)), (counter, counter_s, counted))


@pytest.mark.parametrize("ratio", [1.05, 1.3, 1.6, 2.4])
@pytest.mark.parametrize("power", [SAMPLES, AVERAGE])
def test_the_counter_of_a_superchips_module_is_not_the_gpus_energy(ratio, power):
    found = energy(sources(ratio, power, MODULE), 11.0, 24.0)
    part = found.components["gpu:0"]
    assert part.source == power.source
    assert part.gross_j == pytest.approx(OWN_W * 13, rel=0.01)
    assert part.uncertainty_j < 0.09 * part.gross_j
    assert found.gross_j == part.gross_j
    module = found.enclosing["module:0"]
    assert module.gross_j == pytest.approx(ratio * OWN_W * 13, rel=0.01)
    assert module.contains == ("gpu:0",)
    assert found.notes == ()


@pytest.mark.parametrize("ratio", [1.3, 1.6, 2.4])
@pytest.mark.parametrize("power", [SAMPLES, AVERAGE])
def test_a_counter_above_the_power_leaves_the_narrower_one_with_both_in_its_interval(ratio, power):
    found = energy(sources(ratio, power), 11.0, 24.0)
    part = found.components["gpu:0"]
    assert part.source == power.source
    assert part.interval_j[0] < OWN_W * 13 < ratio * OWN_W * 13 < part.interval_j[1] * 1.05
    assert any("superchip" in note and power.source in note for note in found.notes)


def test_a_counter_of_many_times_the_power_is_no_modules():
    found = energy(sources(5.0, AVERAGE, own_w=100.0), 11.0, 24.0)
    assert found.components["gpu:0"].source == AVERAGE.source
    [note] = [note for note in found.notes if "counted 5.00 times" in note]
    assert "one of them is wrong" in note
    assert "superchip" not in note


def test_a_counter_below_the_power_is_named_and_the_preferred_source_is_used():
    found = energy(sources(0.6, AVERAGE), 11.0, 24.0)
    part = found.components["gpu:0"]
    assert part.source == "nvml.energy_counter"
    assert part.interval_j[0] < 0.6 * OWN_W * 13 < OWN_W * 13 < part.interval_j[1] * 1.1
    assert any("counted 0.600 times" in note and "wrong" in note for note in found.notes)


RAPL_POWER = replace(POWER, component="cpu:0", source="hwmon.power1", max_power_w=None, priority=2)
SOCKET = replace(RAPL, source="amd_energy.Esocket0", priority=1)
INSTANT = replace(POWER, source="nvml.power_instant", priority=2)


@pytest.mark.parametrize("ratio", [0.001, 0.6, 1.02, 2.5, 30.0])
@pytest.mark.parametrize(
    ("preferred", "other"), [(RAPL, RAPL_POWER), (RAPL, SOCKET), (INSTANT, POWER)]
)
def test_any_two_sources_that_differ_are_named_and_the_preferred_is_used(preferred, other, ratio):
    t_s = times(30.0)
    found = energy(
        trace_of(
            *(
                (one, t_s, one_w * (t_s if one.quantity is Quantity.ENERGY else np.ones_like(t_s)))
                for one, one_w in ((preferred, 30.0), (other, 30.0 * ratio))
            )
        )
    )
    [part] = found.components.values()
    assert part.source == preferred.source
    assert part.interval_j[1] > 0.95 * max(1.0, ratio) * 30.0 * 26
    notes = [note for note in found.notes if "one of them is wrong" in note]
    assert len(notes) == (0 if ratio == 1.02 else 1)
    assert all(f"{preferred.source} is used" in note for note in notes)
    assert not any("superchip" in note for note in found.notes)


def test_power_that_is_read_at_moments_does_not_contradict_its_mean():
    """Of an uneven load, 25 ms each 100 ms, next to means of 1 s."""
    random = np.random.default_rng(3)
    fine_w = random.choice([100.0, 700.0], 200).repeat(30)
    fine_s = 10.0 + 0.01 * np.arange(fine_w.size)
    power_s = times(58.0)
    at = np.searchsorted(fine_s, power_s)
    mean_w = np.array([fine_w[max(i - 100, 0) : i + 1].mean() for i in at])
    instant = replace(INSTANT, window_s=0.025)
    average = replace(POWER, window_s=1.0)
    found = energy(trace_of((instant, power_s, fine_w[at]), (average, power_s, mean_w)))
    assert found.notes == ()


@pytest.mark.parametrize("ratio", [0.95, 1.0, 1.05])
def test_sources_that_agree_have_no_note(ratio):
    for power in (SAMPLES, AVERAGE):
        found = energy(sources(ratio, power), 11.0, 24.0)
        assert found.notes == ()
        assert "energy_counter" in found.components["gpu:0"].source


def test_instantaneous_power_of_an_uneven_load_is_no_contradiction():
    instant = replace(AVERAGE, window_s=0.0)
    fine_s = times(60.0, 0.01)
    random = np.random.default_rng(3)
    fine_w = random.choice([100.0, 700.0], fine_s.size // 30).repeat(30)
    power_s, counter_s = times(60.0, 1.0), times(60.0, 0.1)
    power_w = np.interp(power_s, fine_s[: fine_w.size], fine_w)
    counted = np.interp(counter_s, fine_s[: fine_w.size], np.cumsum(fine_w) * 0.01)
    found = energy(trace_of((instant, power_s, power_w), (COUNTER, counter_s, counted)))
    assert found.notes == ()
    assert found.components["gpu:0"].source == "nvml.energy_counter"


def test_a_gap_of_the_power_is_not_filled_from_a_counter_that_contradicts_it():
    trace = sources(1.6, SAMPLES, MODULE, duration_s=40.0)
    (t_ns, power_w), counted = trace.series
    lost = (t_ns > 20e9) & (t_ns < 23e9)
    hole = replace(trace, series=(type(counted)(t_ns[~lost], power_w[~lost]), counted))
    found = energy(hole, 15.0, 30.0)
    assert found.components["gpu:0"].gap_s == pytest.approx(3.0, abs=0.1)
    assert found.components["gpu:0"].gross_j == pytest.approx(OWN_W * 15, rel=0.01)


def test_a_module_of_which_no_part_is_measured_is_the_total():
    counter_s = times(20.0, 1.0)
    found = energy(trace_of((MODULE, counter_s, 640.0 * counter_s)), 12.0, 28.0)
    assert found.components["module:0"].gross_j == pytest.approx(640.0 * 16, rel=0.01)
    assert not found.enclosing


def test_the_role_of_the_modules_counter():
    assert channel_role(AVERAGE, [AVERAGE, MODULE]) == "energy"
    assert channel_role(MODULE, [AVERAGE, MODULE]) == "energy"


@pytest.mark.parametrize("moved_s", [-2e-3, 2e-3])
@pytest.mark.parametrize("duration_s", [0.8, 1.2, 2.0, 5.0, 20.0])
def test_a_poll_that_just_missed_an_update_or_not_neither_contradicts_nor_scales(
    duration_s, moved_s
):
    counter_s = times(duration_s) - moved_s / 2
    counter_s[-1] += moved_s
    counted_j = OWN_W * np.floor(counter_s * 10) / 10
    assert np.ptp(np.diff(counted_j)) == pytest.approx(OWN_W * 0.1)
    power_s = times(duration_s, 0.02)
    power = (SAMPLES, power_s, np.full(power_s.size, OWN_W))
    counter = replace(COUNTER, gain_uncertainty=SAMPLES.gain_uncertainty)
    found = energy(trace_of(power, (counter, counter_s, counted_j)), 10.2, 10.6)
    assert found.notes == ()
    assert found.gross_j == pytest.approx(OWN_W * 0.4, rel=0.01)
