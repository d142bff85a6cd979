"""Energies of spans against waveforms that are known exactly."""

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from energy_parts import record_simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import total
from joulelab.energy.estimator import (
    EnergyEstimator,
    energy_of_union,
    mean_reading,
)
from joulelab.energy.window_union import WindowUnion, merge_ranges
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Absence, Channel, Gap, Provenance, Quantity, Reading
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

S = 10**9
START_S = 5000.0
SAMPLES = {"kind": "samples", "update_period_s": 0.02, "window_s": 0.02, "interval_s": 0.25}
RAPL = {"kind": "counter", "update_period_s": 0.001, "interval_s": 0.1}
SLOW_COUNTER = {"kind": "counter", "update_period_s": 0.1, "interval_s": 0.1}
WAVES = {
    "steady": Waveform.constant(300),
    "square": Waveform.square(low_w=100, high_w=600, period_s=1.37),
    "ramp": Waveform.ramp(low_w=60, high_w=500, period_s=4.0),
    "steps": Waveform.steps([120, 480, 300, 650, 90], step_s=0.9),
}


def simulated(wave="steady", kind=SAMPLES, component="gpu:0", **more):
    waveform = WAVES.get(wave, wave)
    return SimulatedSource(component=component, waveform=waveform, **(kind | more))


def record(source, length_s=60.0, seed=0, start_s=START_S):
    return record_simulated(source, start_s, length_s, seed)


def channel(component, quantity, source="test", **more):
    values = {"provenance": Provenance.SIMULATED, "update_period_s": 0.1}
    return Channel(component=component, quantity=quantity, source=source, **(values | more))


def window(start_s, stop_s):
    return Window(round(start_s * 1e9), round(stop_s * 1e9))


def energy_of(trace, start_s, stop_s):
    return EnergyEstimator(trace).energies([window(START_S + start_s, START_S + stop_s)])[0]


def random_spans(count, shortest_s, longest_s, seed):
    rng = random.Random(seed)
    for _ in range(count):
        length_s = rng.uniform(shortest_s, longest_s)
        start_s = START_S + rng.uniform(1.0, 58.0 - length_s)
        yield start_s, start_s + length_s


# Accuracy and coverage.


@pytest.mark.parametrize("wave", WAVES)
@pytest.mark.parametrize(("kind", "period_s"), [(SAMPLES, 0.02), (RAPL, 0.1), (SLOW_COUNTER, None)])
def test_error_and_coverage_of_random_spans(wave, kind, period_s):
    """Within 1 % from ten sampling periods on, and within the interval at any length."""
    source = simulated(wave, kind)
    estimator = EnergyEstimator(record(source))

    def energies(spans):
        return zip(spans, estimator.energies([window(*one) for one in spans]), strict=True)

    if period_s:
        spans = list(random_spans(300, 10 * period_s, 100 * period_s, seed=1))
        truth_j = source.waveform.energy_j
        assert max(abs(one.gross_j / truth_j(*span) - 1) for span, one in energies(spans)) < 0.01
    covered = 0
    for span, energy in energies(list(random_spans(300, 0.05, 5.0, seed=2))):
        truth_j = source.waveform.energy_j(*span)
        low, high = energy.interval_j
        covered += low - 1e-6 * truth_j <= truth_j <= high + 1e-6 * truth_j
    assert covered >= 0.93 * 300


def test_coverage_over_boards_of_different_gain():
    rng = random.Random(3)
    covered = 0
    for board in range(100):
        source = SimulatedSource(
            component="gpu:0",
            waveform=WAVES["steps"],
            gain=1 + rng.gauss(0, 0.05),
            gain_uncertainty=0.05,
            noise_w=1.0,
            resolution=0.001,
        )
        span = 1 + rng.random(), 5 + rng.random()
        low, high = energy_of(record(source, length_s=10.0, seed=board), *span).interval_j
        covered += low <= source.waveform.energy_j(*(START_S + t_s for t_s in span)) <= high
    assert 90 <= covered <= 99


@settings(max_examples=50)
@given(st.floats(1, 50), st.floats(0.001, 4), st.floats(0.001, 4))
def test_energies_of_adjacent_spans_add_up(start, first, second):
    estimator = EnergyEstimator(SQUARE_TRACE)
    a, b, c = (START_S + t for t in (start, start + first, start + first + second))
    left, right, whole = estimator.energies([window(a, b), window(b, c), window(a, c)])
    assert left.gross_j + right.gross_j == pytest.approx(whole.gross_j, rel=1e-6, abs=1e-5)


SQUARE_TRACE = record(simulated("square"))


def test_equal_readings_of_polled_constant_power_count():
    kind = {"kind": "power", "update_period_s": 0.1, "window_s": 1.0, "interval_s": 0.05}
    trace = record(simulated(Waveform.constant(60), kind))
    assert energy_of(trace, 5, 15).gross_j == pytest.approx(600.0)


def test_a_short_span_of_a_slow_counter_is_neither_zero_nor_double():
    source = simulated(Waveform.constant(400), SLOW_COUNTER)
    spans = list(random_spans(300, 0.05, 0.05, seed=4))
    energies = EnergyEstimator(record(source)).energies([window(*one) for one in spans])
    for span, energy in zip(spans, energies, strict=True):
        low, high = energy.interval_j
        assert energy.gross_j > 0
        assert low <= source.waveform.energy_j(*span) <= high


@pytest.mark.parametrize("wrap_j", [50.0, 997.3])
def test_wraps_of_a_counter_lose_nothing(wrap_j):
    trace = record(simulated(Waveform.constant(160), RAPL, "cpu:0", wrap_j=wrap_j))
    assert energy_of(trace, 1, 51).gross_j == pytest.approx(160 * 50, rel=1e-3)


def test_a_counter_reset_is_a_gap_and_not_a_negative_energy():
    readings = [
        Reading(round((START_S + i * 0.1) * 1e9), 0, 20.0 * i if i < 50 else 20.0 * (i - 50))
        for i in range(100)
    ]
    trace = Trace.of([channel("gpu:0", Quantity.ENERGY)], readings)
    part = energy_of(trace, 1, 9).components["gpu:0"]
    assert part.gross_j == pytest.approx(1600, rel=0.01)
    assert part.gap_s == pytest.approx(0.1)


def test_an_empty_span_has_no_energy():
    energy = energy_of(record(simulated()), 5, 5)
    assert energy.gross_j == 0
    assert energy.duration_s == 0


# Gaps, absences and priorities.


@pytest.fixture(scope="module")
def gappy():
    """Steps of power without readings for 3 s, and the waveform."""
    source = simulated("steps")
    trace = record(source)
    [(t_ns, value)] = trace.series
    t_s = t_ns * 1e-9 - START_S
    keep = ~((t_s >= 20) & (t_s < 23))
    return source, replace(trace, series=(Readings(t_ns[keep], value[keep]),))


def test_a_gap_widens_the_interval_of_a_span_over_it(gappy):
    source, trace = gappy
    before, after = (energy_of(one, 18, 28) for one in (record(source), trace))
    truth_j = source.waveform.energy_j(START_S + 18, START_S + 28)
    assert after.gap_s == pytest.approx(3.0, abs=0.1)
    assert after.interval_j[0] < truth_j < after.interval_j[1]
    assert after.components["gpu:0"].uncertainty_j > 20 * before.components["gpu:0"].uncertainty_j


def test_a_gap_of_one_source_is_filled_from_another(gappy):
    source, trace = gappy
    counter = SimulatedSource(
        component="gpu:0", waveform=source.waveform, **(SLOW_COUNTER | {"interval_s": 0.5})
    )
    both = Trace(
        (*trace.channels, replace(counter.channel(), priority=1)),
        trace.series + record(counter).series,
        (),
        {"intervals_s": [source.interval_s, counter.interval_s]},
    )
    truth_j = source.waveform.energy_j(START_S + 18, START_S + 28)
    alone, filled = (energy_of(one, 18, 28) for one in (trace, both))
    assert filled.gap_s == pytest.approx(0.0)
    assert filled.gross_j == pytest.approx(truth_j, rel=0.02)
    assert filled.interval_j[0] < truth_j < filled.interval_j[1]
    assert filled.components["gpu:0"].uncertainty_j < alone.components["gpu:0"].uncertainty_j / 3
    assert energy_of(both, 20.5, 22.5).components["gpu:0"].source == "simulated.samples"


@pytest.mark.parametrize(("start_s", "stop_s"), [(20.5, 22.5), (100, 110)])
def test_a_span_with_few_readings_is_absent_with_the_reason(gappy, start_s, stop_s):
    energy = energy_of(gappy[1], start_s, stop_s)
    assert not energy.components
    assert energy.absent["gpu:0"] == "simulated.samples covers only 0 % of the span"
    assert math.isnan(energy.gross_j)


def test_a_sum_over_spans_of_which_one_has_no_readings_states_how_many_have(gappy):
    source, trace = gappy
    windows = [window(START_S + 2 * i, START_S + 2 * i + 2) for i in range(20)]
    windows[10] = window(START_S + 20.2, START_S + 22.8)
    found = EnergyEstimator(trace).total(windows)
    truth_j = math.fsum(
        source.waveform.energy_j(one.start_ns * 1e-9, one.stop_ns * 1e-9) for one in windows
    )
    low_j, high_j = found.interval_j
    assert low_j < truth_j < high_j
    assert found.gap_s == pytest.approx(2.6 + 1.0, abs=0.1)
    assert any("19 of 20 spans have readings" in note for note in found.notes)
    mostly_unseen = EnergyEstimator(trace).total(
        [window(START_S + 19.5, START_S + 20.2), window(START_S + 20.2, START_S + 22.8)]
    )
    assert mostly_unseen.absent["gpu:0"] == "simulated.samples covers only 15 % of the spans"


def test_a_sensor_that_only_failed_is_absent_with_its_reason():
    trace = Trace.of([simulated().channel()], [Gap(i * S, 0, "lost") for i in range(5)])
    events = [{"event": "gap", "channel": 0, "t_ns": 0, "reason": "GPU is lost"}]
    energy = EnergyEstimator(replace(trace, events=events)).energies([window(0, 5)])[0]
    assert energy.absent == {"gpu:0": "GPU is lost"}


def test_an_absent_source_does_not_matter_if_another_measures_its_component():
    absent = (Absence("cpu", "rapl", "refused", "chmod"), Absence("gpu", "nvml", "no driver"))
    trace = replace(record(simulated(component="cpu:0")), absent=absent)
    assert energy_of(trace, 1, 2).absent == {"gpu": "no driver"}


def test_the_next_source_is_used_if_the_preferred_one_gave_nothing():
    options = {"update_period_s": 1.0, "window_s": 1.0}
    channels = [
        channel("gpu:0", Quantity.POWER, f"source {i}", priority=i, **options) for i in (2, 1)
    ]
    second = [Reading(i * S, 0, 100.0) for i in range(10)]
    both = second + [Reading(i * S, 1, 200.0) for i in range(10)]
    for readings, gross_j, source in ((both, 800, "source 1"), (second, 400, "source 2")):
        energy = EnergyEstimator(Trace.of(channels, readings)).energies([window(2, 6)])[0]
        assert energy.gross_j == pytest.approx(gross_j)
        assert energy.components["gpu:0"].source == source


def test_means_of_other_quantities():
    utilization = channel("host", Quantity.UTILIZATION, update_period_s=1.0)
    trace = Trace.of([utilization], [Reading(i * S, 0, 10.0 * i) for i in range(10)])
    spans = [window(1, 2), window(5, 6)]
    assert mean_reading(trace, "host", Quantity.UTILIZATION, spans) == 35.0
    assert math.isnan(mean_reading(trace, "host", Quantity.TEMPERATURE, spans))
    assert math.isnan(mean_reading(trace, "host", Quantity.UTILIZATION, [window(20, 30)]))


def test_the_default_machines_sources():
    sources = {source.component for source in SimulatedMachine.default().sources}
    assert sources == {"gpu:0", "cpu:0", "dram:0"}


# Spans whose times on the GPU are known.


@pytest.fixture(scope="module")
def burst():
    """100 W, and 600 W from 1.0 to 1.2 s, of a GPU and of a CPU."""
    options = {"update_period_s": 0.01, "window_s": 0.01}
    channels = [channel(name, Quantity.POWER, **options) for name in ("gpu:0", "cpu:0")]
    readings = [
        Reading(i * S // 100, k, 600.0 if 100 < i <= 120 else 100.0)
        for i in range(1, 300)
        for k in (0, 1)
    ]
    return EnergyEstimator(Trace.of(channels, readings))


def burst_energy(estimator, uncertainty_ns=0):
    """The host began and ended the span 0.1 s before the GPU did."""
    span = Window(9 * S // 10, 11 * S // 10, S, 12 * S // 10, uncertainty_ns)
    return estimator.energies([span])[0].components


def test_each_component_is_measured_over_its_own_times(burst):
    parts = burst_energy(burst)
    assert parts["gpu:0"].gross_j == pytest.approx(120.0, rel=1e-6)
    assert parts["cpu:0"].gross_j == pytest.approx(70.0, rel=1e-6)
    assert parts["gpu:0"].mean_power_w == pytest.approx(600.0, rel=1e-6)


def test_the_uncertainty_of_the_gpus_clock_widens_the_gpus_interval_alone(burst):
    exact, unsure = burst_energy(burst), burst_energy(burst, 1_000_000)
    assert unsure["gpu:0"].gross_j == exact["gpu:0"].gross_j
    assert unsure["cpu:0"] == exact["cpu:0"]
    edges_j = [parts["gpu:0"].edge_uncertainty_j for parts in (exact, unsure)]
    assert math.sqrt(edges_j[1] ** 2 - edges_j[0] ** 2) == pytest.approx(0.001 * 500.0, rel=1e-6)


# Sums and unions of spans.


def shared_machine():
    """A GPU, a shared processor, and memory whose sensor is lost for a while."""
    rng = random.Random(1)
    power = {"window_s": 0.1, "provenance": Provenance.MEASURED}
    channels = [
        channel("gpu:0", Quantity.POWER, "nvml.samples", gain_uncertainty=0.05, **power),
        channel("cpu:0", Quantity.ENERGY, "rapl", offset_uncertainty_w=1.0),
        channel("dram:0", Quantity.POWER, "estimate", **power),
        channel("cpu", Quantity.USE),
        channel("cpu", Quantity.JOB_USE),
    ]
    readings = []
    energy_j = use_s = job_s = 0.0
    for i in range(400):
        t_ns = i * S // 10
        energy_j += rng.uniform(1, 9)
        use_s, job_s = use_s + 0.2, job_s + (0.2 if i < 200 else rng.uniform(0.05, 0.15))
        readings += [Reading(t_ns, 0, rng.uniform(100, 400)), Reading(t_ns, 1, energy_j)]
        lost = 300 <= i < 330
        readings.append(Gap(t_ns, 2, "lost") if lost else Reading(t_ns, 2, 6.0))
        readings += [Reading(t_ns, 3, use_s), Reading(t_ns, 4, job_s)]
    return Trace.of(channels, readings)


IDLE = Baseline(
    tuple(
        IdlePoint(
            time_s=time_s,
            duration_s=5.0,
            power_w={"gpu:0": gpu_w, "cpu:0": 20.0, "dram:0": 5.0},
            uncertainty_w={"gpu:0": 0.5, "cpu:0": 0.2, "dram:0": 0.0},
            source={"gpu:0": "nvml.samples", "cpu:0": "rapl", "dram:0": "estimate"},
        )
        for time_s, gpu_w in ((0.0, 119.0), (40.0, 128.0))
    )
)


@pytest.mark.parametrize("baseline", [None, IDLE])
@pytest.mark.parametrize(("first_s", "last_s"), [(1, 19), (1, 29), (21, 29), (29, 34)])
def test_a_total_equals_the_sum_of_its_spans(baseline, first_s, last_s):
    rng = random.Random(2)
    estimator = EnergyEstimator(shared_machine(), baseline)
    windows = []
    for _ in range(30):
        start_ns = round(rng.uniform(first_s, last_s) * S)
        stop_ns = min(start_ns + round(rng.uniform(0, 1) * S), last_s * S)
        device = (start_ns + 1000, stop_ns + 5000, 1000) if rng.random() < 0.5 else ()
        windows.append(Window(start_ns, stop_ns, *device))
    expected, found = total(estimator.energies(windows)), estimator.total(windows)
    assert ("dram:0" in found.components) == (last_s < 30)
    assert found.duration_s == pytest.approx(expected.duration_s)
    assert sorted(found.notes) == sorted(expected.notes)
    assert found.absent.keys() == expected.absent.keys()
    assert found.components.keys() == expected.components.keys()
    for name, part in expected.components.items():
        values, others = part.to_json(), found.components[name].to_json()
        assert (values.pop("share") is None) == (others.pop("share") is None)
        for field, value in values.items():
            numeric = isinstance(value, float | list)
            assert others[field] == (pytest.approx(value) if numeric else value), field


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_merged_ranges_have_each_time_once(pairs):
    ranges = [(start, start + length) for start, length in pairs]
    found = merge_ranges(ranges).tolist()
    inside = {t for a, b in ranges for t in range(a, b)}
    assert {t for a, b in found for t in range(a, b)} == inside
    assert sum(b - a for a, b in found) == len(inside)
    assert all(before[1] < after[0] for before, after in pairwise(found))


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), min_size=1, max_size=8),
    st.lists(st.integers(0, 80), max_size=4),
)
def test_the_parts_of_a_union_make_the_whole(pairs, cuts):
    union = WindowUnion.of([Window(start, start + length) for start, length in pairs])
    parts = [union.within(start, stop) for start, stop in pairwise([0, *sorted(cuts), 100])]
    lengths = [int((part.host[:, 1] - part.host[:, 0]).sum()) for part in parts if part]
    assert sum(lengths) == (union.host[:, 1] - union.host[:, 0]).sum()
    assert lengths


@pytest.mark.parametrize(
    ("windows", "gpu_s"),
    [
        ([Window(10 * S, 20 * S), Window(12 * S, 22 * S)], 12),
        ([Window(10 * S, 20 * S, 11 * S, 23 * S, 1000), Window(12 * S, 22 * S)], 12),
    ],
)
def test_ranks_in_the_same_epoch_count_it_once(windows, gpu_s):
    channels = [channel("gpu:0", Quantity.ENERGY), channel("cpu:0", Quantity.ENERGY)]
    readings = [Reading(i * S // 10, k, (30.0, 5.0)[k] * i) for i in range(1001) for k in (0, 1)]
    estimator = EnergyEstimator(Trace.of(channels, readings))
    energy = energy_of_union(estimator, WindowUnion.of(windows))
    assert energy.duration_s == pytest.approx(12.0)
    assert energy.components["gpu:0"].gross_j == pytest.approx(300.0 * gpu_s)
    assert energy.components["gpu:0"].duration_s == pytest.approx(gpu_s)
    assert energy.components["cpu:0"].gross_j == pytest.approx(600.0)
