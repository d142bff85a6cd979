"""Readings that no component can draw: glitches, leaps, wrong units and wrong signs."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from doubtful_traces import COUNTER, POWER, RAPL, RING, energy, times, trace_of
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.signal import implausible_power_w
from joulelab.format import number, percent, quantity
from joulelab.recording.trace import Readings
from joulelab.sensors.plausibility import (
    implausible,
    max_power_w,
    package_bound_w,
    with_gpu_bounds,
    with_thread_bound,
)
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


USE = replace(RAPL, component="cpu", quantity=Quantity.USE, source="proc.stat", wrap=None)
BUSY = replace(USE, component="gpu:0", quantity=Quantity.UTILIZATION, source="nvml.utilization")


def _working(channel, power_w, use):
    """A channel that shows a power, next to the use of its component in threads or of a GPU."""
    t_s = times(30.0)
    value = np.cumsum(power_w(t_s)) * 0.1 if channel.quantity is Quantity.ENERGY else power_w(t_s)
    is_gpu = channel.component.startswith("gpu")
    used = 100.0 * use(t_s) if is_gpu else np.cumsum(use(t_s)) * 0.1
    return trace_of((channel, t_s, value), (BUSY if is_gpu else USE, t_s, used))


def _package(component, packages=1):
    return with_thread_bound(replace(RAPL, component=component), packages)


@pytest.mark.parametrize(
    ("component", "power_w", "threads"),
    [("cpu:0", 0.05, 4), ("cpu:0", 0.065, 16), ("cpu:0", 0.35, 128), ("cpu:0", 0.003, 2),
     ("soc", 0.1, 8), ("node", 0.06, 4)],
)  # fmt: skip
def test_a_processor_that_works_on_next_to_nothing_is_not_believed(component, power_w, threads):
    channel = _package(component)
    trace = _working(channel, lambda t: power_w + 0 * t, lambda t: threads + 0 * t)
    found = energy(trace)
    assert not found.components
    reason = found.absent[component]
    assert f"rapl.package-0 reports {quantity(power_w, 'W')}, less than a" in reason
    least = quantity(0.02 * threads, "W")
    assert f"with {number(threads)} threads at work (at least {least}): its unit" in reason


@pytest.mark.parametrize(
    ("power_w", "threads"),
    [
        pytest.param(0.01, 0.02, id="laptop in its deepest state"),
        pytest.param(2.2, 4, id="tablet at full load"),
        pytest.param(0.3, 4, id="the same at its lowest clock"),
        pytest.param(3.5, 4, id="fanless laptop"),
        pytest.param(0.25, 1.0, id="one thread of a tablet"),
        pytest.param(500.0, 384, id="server"),
        pytest.param(0.26, 2, id="virtual machine with a tenth of its processors' time"),
    ],
)
def test_every_processor_is_believed(power_w, threads):
    for rhythm in (np.ones_like, lambda t: t % 2 < 1):
        idle_w = min(power_w, 0.01)
        trace = _working(
            _package("cpu:0"),
            lambda t, on=rhythm, idle_w=idle_w: np.where(on(t), power_w, idle_w),
            lambda t, on=rhythm: threads * on(t),
        )
        assert list(energy(trace).components) == ["cpu:0"]


def test_an_idle_package_next_to_a_busy_one_is_believed():
    """The load is on the other of two, which is half of all use."""
    trace = _working(_package("cpu:0", 2), lambda t: 5.0 + 0 * t, lambda t: 128 + 0 * t)
    assert list(energy(trace).components) == ["cpu:0"]


def test_a_counter_that_is_reset_at_work_is_believed():
    def power_w(t):
        return np.where(np.isclose(t, 25.0), -1e4, 20.0)

    found = energy(_working(_package("cpu:0"), power_w, lambda t: 8 + 0 * t))
    assert found.components["cpu:0"].mean_power_w == pytest.approx(20.0)
    assert any("was reset" in note for note in found.notes)


def test_a_counter_that_stands_still_at_work_has_no_wrong_unit():
    def power_w(t):
        return np.where(t < 12, 20.0, 0.0)

    trace = _working(_package("cpu:0"), power_w, lambda t: 8 + 0 * t)
    found = energy(trace)
    assert "unit" not in found.absent["cpu:0"]
    assert any("did not advance" in note for note in found.notes)


@pytest.mark.parametrize(
    ("power_w", "limit_w", "use", "believed"),
    [(0.12, 700.0, 1.0, False), (0.4, 450.0, 0.9, False), (0.03, 25.0, 1.0, False),
     (0.12, 700.0, 0.0, True), (3.0, 175.0, 1.0, True), (2.0, 10.0, 1.0, True)],
)  # fmt: skip
def test_a_gpu_that_works_on_next_to_nothing_is_not_believed(power_w, limit_w, use, believed):
    channel = with_gpu_bounds(replace(POWER, max_power_w=None), limit_w)
    trace = _working(channel, lambda t: power_w + 0 * t, lambda t: use + 0 * t)
    found = energy(trace)
    assert bool(found.components) is believed
    if not believed:
        least = quantity(0.005 * limit_w * use, "W")
        text = f"draws with {percent(use, 2)} of its time at work (at least {least})"
        assert text in found.absent["gpu:0"]


def test_a_limit_in_a_wrong_unit_bounds_nothing():
    channel = replace(POWER, max_power_w=None)
    for limit_w in (0.0, 0.3, 1.4, 300_000.0):
        bounded = with_gpu_bounds(channel, limit_w)
        assert (max_power_w(bounded), bounded.least_use_w) == (3000.0, 0.0)
    assert package_bound_w(0.125) == package_bound_w(0.0) == 2000.0
    assert package_bound_w(2.2) == 11.0


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
