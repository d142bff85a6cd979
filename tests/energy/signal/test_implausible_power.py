"""Readings that no component can draw: glitches, leaps, wrong units and wrong signs."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from doubtful_traces import COUNTER, POWER, RAPL, RING, energy, times, trace_of
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.signal import implausible_power_w
from joulelab.recording.trace import Readings
from joulelab.sensors.plausibility import implausible, max_power_w
from joulelab.sensors.sensor import Channel, Quantity
from joulelab.validation import convert


@pytest.mark.parametrize(
    ("power_w", "duration_s"),
    [(2500.0, 10.0), (2500.0, 300.0), *itertools.product([4200.0, 3e4, 1e7], [2.0, 5.0, 300.0])],
)
def test_a_counter_of_a_wrong_unit_is_absent_with_its_power(power_w, duration_s):
    t_s = times(duration_s)
    found = energy(trace_of((RAPL, t_s, (power_w * t_s) % RAPL.wrap)), 10.5, 11.5)
    assert not found.components
    assert "rapl.package-0 reports" in found.absent["cpu:0"]
    assert "more than a processor package can draw (at most 2,000 W)" in found.absent["cpu:0"]


def test_a_load_that_only_sometimes_shows_the_wrong_unit_is_not_believed_at_all():
    t_s = times(120.0)
    power_w = np.where((t_s > 60) & (t_s < 70), 4200.0, 900.0)
    counted = np.cumsum(power_w) * 0.1
    found = energy(trace_of((RAPL, t_s, counted % RAPL.wrap)), 80.0, 120.0)
    assert "reports" in found.absent["cpu:0"]


@given(
    power_w=st.floats(1.0, 1900.0),
    jump_j=st.floats(2300.0, 1e9),
    at_s=st.floats(13.0, 37.0),
)
def test_one_leap_is_a_gap_and_not_energy(power_w, jump_j, at_s):
    channel = replace(RAPL, wrap=None)
    t_s = times()
    found = energy(trace_of((channel, t_s, power_w * t_s + jump_j * (t_s > at_s))))
    part = found.components["cpu:0"]
    assert part.gross_j == pytest.approx(power_w * 26, rel=1e-6)
    assert part.gap_s == pytest.approx(0.1, abs=1e-6)
    assert any("jumped by more than" in note for note in found.notes)


def test_a_plausible_counter_read_late_is_believed():
    # A busy machine: readings come 0.9 s late, and then two close together.
    t_s = times(60.0)
    value = 1900.0 * t_s
    late_s = np.where(np.arange(t_s.size) % 20 == 0, 0.09, 0.0)
    assert implausible_power_w(RAPL, *_series(t_s + late_s, value)) is None
    assert energy(trace_of((RAPL, t_s + late_s, value))).notes == ()


def _series(t_s, value):
    return Readings(np.rint(t_s * 1e9).astype(np.int64), value), 0.1


@pytest.mark.parametrize("component", ["gpu:0", "log:gpu:0", "gpu:A100"])
def test_a_gpu_at_20_kw_in_a_log_is_not_believed(component):
    channel = replace(POWER, component=component, max_power_w=None)
    t_s = times(60.0, 1.0)
    found = energy(trace_of((channel, t_s, np.full(t_s.size, 20_000.0))))
    assert "nvml.power_usage reports 20.0 kW" in found.absent[component]
    assert "its unit is probably wrong" in found.absent[component]


def test_a_glitch_of_the_driver_is_a_gap():
    t_s = times()
    power_w = np.full(t_s.size, 300.0)
    power_w[150] = 4_294_967.295  # All bits of the driver's unsigned integer, in mW.
    found = energy(trace_of((POWER, t_s, power_w)))
    assert found.components["gpu:0"].gross_j == pytest.approx(300 * 26)
    [note] = found.notes
    assert note == "gpu:0: nvml.power_usage read more than a GPU can draw (at most 1,050 W)"


def test_negative_power_is_not_summed():
    t_s = times()
    power_w = np.full(t_s.size, 300.0)
    power_w[100:105] = -5000.0
    found = energy(trace_of((POWER, t_s, power_w)))
    part = found.components["gpu:0"]
    assert part.interval_j[0] < 300 * 26 < part.interval_j[1]
    assert part.gap_s == pytest.approx(0.5, abs=0.11)
    assert any("negative power" in note for note in found.notes)
    wrong = energy(trace_of((POWER, t_s, -power_w)))
    assert "its sign is probably wrong" in wrong.absent["gpu:0"]


def test_a_zero_that_reads_slightly_negative_is_zero():
    t_s = times()
    found = energy(trace_of((POWER, t_s, np.where(t_s > 25, 300.0, -0.4))))
    assert found.components["gpu:0"].gross_j == pytest.approx(300 * 13, rel=0.02)
    assert found.notes == ()


def test_the_next_source_takes_the_place_of_one_that_is_not_believed():
    t_s = times()
    wrong = replace(COUNTER, priority=0)
    found = energy(trace_of((wrong, t_s, 1e5 * t_s), (POWER, t_s, np.full(t_s.size, 400.0))))
    assert found.components["gpu:0"].source == "nvml.power_usage"
    assert found.gross_j == pytest.approx(400 * 26)
    assert found.absent == {}
    assert any(note.startswith("gpu:0: nvml.energy_counter reports 100 kW") for note in found.notes)


@given(power_w=st.floats(0.1, 1.0), duration_s=st.sampled_from([1.0, 4.0, 20.0, 200.0]))
def test_power_up_to_the_bound_is_always_believed(power_w, duration_s):
    for channel in (RAPL, COUNTER, POWER, RING):
        t_s = times(duration_s, channel.update_period_s if channel is RING else 0.1)
        at_w = power_w * max_power_w(channel)
        value = np.full(t_s.size, at_w)
        if channel.quantity is Quantity.ENERGY:
            value = at_w * t_s % (channel.wrap or np.inf)
        assert implausible_power_w(channel, *_series(t_s, value)) is None


@pytest.mark.parametrize(
    ("component", "most_w", "noun"),
    [
        ("soc", 3e3, "chip"),
        ("card:0", 3e3, "card"),
        ("module:1", 6e3, "module"),
        ("psu:0", 10e3, "power supply"),
        ("plug:gpu", 25e3, "plug"),
        ("node", 30e3, "machine"),
        ("gpu", 12e3, "component"),
    ],
)
def test_each_kind_of_component_has_a_bound(component, most_w, noun):
    channel = replace(POWER, component=component, max_power_w=None)
    assert max_power_w(channel) == most_w
    assert f"more than a {noun} can draw" in implausible(channel, 2 * most_w)


def test_the_bound_is_in_the_record():
    copy = convert(COUNTER.to_json(), Channel)
    assert copy.max_power_w == 1050.0
    old = {k: v for k, v in COUNTER.to_json().items() if k not in ("max_power_w", "contains")}
    assert max_power_w(convert(old, Channel)) == 3000.0


@pytest.mark.parametrize("jump_j", [500.0, 50_000.0])
def test_a_leap_of_the_counter_next_to_the_ring_is_no_energy(jump_j):
    # 250 W with bursts; the counter is read each second and leaps once, in 60 s.
    ring_s, counter_s = times(60.0, 0.02), times(60.0, 1.0)
    power_w = np.where(ring_s % 2.0 < 1.0, 150.0, 350.0)
    counted = np.interp(counter_s, ring_s, np.cumsum(power_w) * 0.02)
    trace = trace_of(
        (RING, ring_s, power_w), (COUNTER, counter_s, counted + jump_j * (counter_s > 40))
    )
    found = energy(trace, 20.0, 30.0)
    part = found.components["gpu:0"]
    assert part.gross_j == pytest.approx(2500, rel=0.01)
    assert part.uncertainty_j < 0.06 * 2500
    around = energy(trace, 30.0, 50.0)
    assert around.components["gpu:0"].gross_j == pytest.approx(5000, rel=0.01)
    assert any("nvml.energy_counter jumped by" in note for note in around.notes)


@pytest.mark.parametrize("seed", [2, 250, *range(10, 20)])
def test_a_counter_that_is_late_by_a_share_of_a_second_has_no_leap(seed):
    """Its updates keep no exact time, and show the energy of a little before (as an H200's)."""
    random = np.random.default_rng(seed)
    ring_s, counter_s = times(62.0, 0.02), times(61.0, 1.0) + 0.5
    counter_s += random.normal(0.0, 2e-4, counter_s.size)
    edges_s = 15.0 + np.cumsum(random.uniform(0.3, 2.5, 29))
    power_w = np.where(np.searchsorted(edges_s, ring_s) % 2, 694.0, 79.0)
    period_s = 0.1 + random.uniform(-1e-4, 1e-4)
    first_s, late_s = random.uniform(0.0, period_s), random.uniform(0.0, 0.04)
    shown_s = np.floor((counter_s - first_s) / period_s) * period_s + first_s - late_s
    counted = np.interp(shown_s, ring_s, np.cumsum(power_w) * 0.02)
    found = energy(trace_of((RING, ring_s, power_w), (COUNTER, counter_s, counted)), 16.0, 64.0)
    assert found.notes == ()


def test_a_counter_that_agrees_has_no_leap():
    ring_s, counter_s = times(120.0, 0.02), times(120.0, 1.0)
    random = np.random.default_rng(5)
    power_w = random.uniform(100, 600, ring_s.size // 25).repeat(25)
    exact = np.interp(np.floor(counter_s * 10) / 10, ring_s, np.cumsum(power_w) * 0.02)
    found = energy(trace_of((RING, ring_s, power_w), (COUNTER, counter_s, exact)), 20.0, 100.0)
    assert found.notes == ()
    assert found.components["gpu:0"].source == "nvml.samples+nvml.energy_counter"
