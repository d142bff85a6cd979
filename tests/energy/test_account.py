"""Energies of spans against a waveform that is known exactly."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator, mean_reading
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Absence, Channel, Gap, Provenance, Quantity, Reading
from joulelab.sensors.simulated import SimulatedMachine, SimulatedSource, Waveform

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


def record(source, length_s=60.0, seed=0, start_s=START_S):
    """The trace that a recorder with an ordinary jitter would have made."""
    rng = random.Random(seed)
    readings, last_s = [], start_s
    while last_s < start_s + length_s:
        now_s = last_s + source.interval_s * rng.uniform(1.0, 1.02)
        readings += source.readings(round(last_s * 1e9), round(now_s * 1e9))
        last_s = now_s
    return as_trace(source, readings)


def as_trace(source, readings):
    trace = Trace.of([source.channel()], readings)
    return replace(trace, header={"intervals_s": [source.interval_s]})


def window(start_s, stop_s):
    return Window(round(start_s * 1e9), round(stop_s * 1e9))


def random_spans(count, shortest_s, longest_s, seed):
    rng = random.Random(seed)
    for _ in range(count):
        length_s = rng.uniform(shortest_s, longest_s)
        start_s = START_S + rng.uniform(1.0, 58.0 - length_s)
        yield start_s, start_s + length_s


@pytest.mark.parametrize("wave", WAVES)
@pytest.mark.parametrize(("kind", "period_s"), [(SAMPLES, 0.02), (RAPL, 0.1)])
def test_within_one_percent_from_ten_sampling_periods_on(wave, kind, period_s):
    source = SimulatedSource(component="gpu:0", waveform=WAVES[wave], **kind)
    accounts = EnergyEstimator(record(source))
    spans = list(random_spans(300, 10 * period_s, 100 * period_s, seed=1))
    errors = [
        abs(energy.gross_j / source.waveform.energy_j(*span) - 1)
        for span, energy in zip(spans, accounts.energies([window(*s) for s in spans]), strict=True)
    ]
    assert max(errors) < 0.01


@pytest.mark.parametrize("wave", WAVES)
@pytest.mark.parametrize("kind", [SAMPLES, RAPL, SLOW_COUNTER])
def test_the_interval_holds_the_truth(wave, kind):
    source = SimulatedSource(component="gpu:0", waveform=WAVES[wave], **kind)
    accounts = EnergyEstimator(record(source))
    spans = list(random_spans(300, 0.05, 5.0, seed=2))
    energies = accounts.energies([window(*span) for span in spans])
    held = 0
    for span, energy in zip(spans, energies, strict=True):
        truth_j = source.waveform.energy_j(*span)
        low, high = energy.interval_j
        held += low - 1e-6 * truth_j <= truth_j <= high + 1e-6 * truth_j
    assert held >= 0.93 * len(spans)


def test_the_interval_holds_the_truth_over_boards_of_different_gain():
    rng = random.Random(3)
    held, count = 0, 0
    for board in range(100):
        source = SimulatedSource(
            component="gpu:0",
            waveform=WAVES["steps"],
            gain=1 + rng.gauss(0, 0.05),
            gain_uncertainty=0.05,
            noise_w=1.0,
            resolution=0.001,
        )
        accounts = EnergyEstimator(record(source, length_s=10.0, seed=board))
        span = (START_S + 1 + rng.random(), START_S + 5 + rng.random())
        low, high = accounts.energies([window(*span)])[0].interval_j
        held += low <= source.waveform.energy_j(*span) <= high
        count += 1
    assert 0.90 * count <= held <= 0.99 * count


@settings(max_examples=50)
@given(st.floats(1, 50), st.floats(0.001, 4), st.floats(0.001, 4))
def test_energy_is_additive_over_neighbouring_spans(start, first, second):
    source = SimulatedSource(component="gpu:0", waveform=WAVES["square"], **SAMPLES)
    accounts = EnergyEstimator(record(source))
    a, b, c = (START_S + t for t in (start, start + first, start + first + second))
    left, right, whole = accounts.energies([window(a, b), window(b, c), window(a, c)])
    assert left.gross_j + right.gross_j == pytest.approx(whole.gross_j, rel=1e-6, abs=1e-5)


def test_constant_power_polled_as_equal_readings_is_not_nothing():
    source = SimulatedSource(
        component="gpu:0",
        waveform=Waveform.constant(60),
        kind="power",
        update_period_s=0.1,
        window_s=1.0,
        interval_s=0.05,
    )
    energy = EnergyEstimator(record(source)).energies([window(START_S + 5, START_S + 15)])[0]
    assert energy.gross_j == pytest.approx(600.0)


def test_a_short_window_of_a_slow_counter_is_neither_zero_nor_double():
    source = SimulatedSource(component="gpu:0", waveform=Waveform.constant(400), **SLOW_COUNTER)
    accounts = EnergyEstimator(record(source))
    spans = list(random_spans(300, 0.05, 0.05, seed=4))
    for span, energy in zip(spans, accounts.energies([window(*s) for s in spans]), strict=True):
        truth_j = source.waveform.energy_j(*span)
        assert energy.gross_j > 0
        low, high = energy.interval_j
        assert low <= truth_j <= high


@pytest.mark.parametrize("wrap_j", [50.0, 997.3])
def test_a_counter_that_wraps_loses_nothing(wrap_j):
    source = SimulatedSource(
        component="cpu:0", waveform=Waveform.constant(160), wrap_j=wrap_j, **RAPL
    )
    energy = EnergyEstimator(record(source)).energies([window(START_S + 1, START_S + 51)])[0]
    assert energy.gross_j == pytest.approx(160 * 50, rel=1e-3)


def test_a_counter_that_is_reset_is_a_gap_and_no_negative_energy():
    channel = Channel(
        component="gpu:0",
        quantity=Quantity.ENERGY,
        source="counter",
        provenance=Provenance.SIMULATED,
        update_period_s=0.1,
    )
    readings = [
        Reading(round((START_S + i * 0.1) * 1e9), 0, 20.0 * i if i < 50 else 20.0 * (i - 50))
        for i in range(100)
    ]
    energy = EnergyEstimator(Trace.of([channel], readings)).energies(
        [window(START_S + 1, START_S + 9)]
    )[0]
    part = energy.components["gpu:0"]
    assert part.gross_j == pytest.approx(1600, rel=0.01)
    assert part.gap_s == pytest.approx(0.1)


def with_gap(length_s):
    source = SimulatedSource(component="gpu:0", waveform=WAVES["steps"], **SAMPLES)
    lost = (START_S + 20, START_S + 20 + length_s)
    trace = record(source)
    [(t_ns, value)] = trace.series
    keep = [i for i, t in enumerate(t_ns * 1e-9) if not lost[0] <= t < lost[1]]
    return source, replace(trace, series=(Readings(t_ns[keep], value[keep]),))


def test_a_gap_widens_the_interval_of_a_span_over_it():
    source, gappy = with_gap(3.0)
    whole = EnergyEstimator(record(source))
    span = window(START_S + 18, START_S + 28)
    before, after = (one.energies([span])[0] for one in (whole, EnergyEstimator(gappy)))
    truth_j = source.waveform.energy_j(START_S + 18, START_S + 28)
    assert after.gap_s == pytest.approx(3.0, abs=0.1)
    assert after.interval_j[0] < truth_j < after.interval_j[1]
    assert after.components["gpu:0"].uncertainty_j > 20 * before.components["gpu:0"].uncertainty_j


def test_a_gap_of_one_source_is_filled_from_another():
    source, gappy = with_gap(3.0)
    counter = SimulatedSource(
        component="gpu:0", waveform=source.waveform, **(SLOW_COUNTER | {"interval_s": 0.5})
    )
    second = replace(counter.channel(), priority=1)
    both = Trace(
        (*gappy.channels, second),
        gappy.series + record(counter).series,
        (),
        {"intervals_s": [source.interval_s, counter.interval_s]},
    )
    span = window(START_S + 18, START_S + 28)
    truth_j = source.waveform.energy_j(START_S + 18, START_S + 28)
    alone, helped = (EnergyEstimator(trace).energies([span])[0] for trace in (gappy, both))
    assert helped.gap_s == pytest.approx(0.0)
    assert helped.gross_j == pytest.approx(truth_j, rel=0.02)
    assert helped.interval_j[0] < truth_j < helped.interval_j[1]
    assert helped.components["gpu:0"].uncertainty_j < alone.components["gpu:0"].uncertainty_j / 3
    inside = EnergyEstimator(both).energies([window(START_S + 20.5, START_S + 22.5)])[0]
    assert inside.components["gpu:0"].source == "simulated.samples"


def test_a_span_mostly_in_a_gap_has_no_energy_but_a_reason():
    _, gappy = with_gap(3.0)
    energy = EnergyEstimator(gappy).energies([window(START_S + 20.5, START_S + 22.5)])[0]
    assert not energy.components
    assert "covers only" in energy.absent["gpu:0"]
    assert math.isnan(energy.gross_j)


def test_a_span_after_the_last_reading_has_no_energy_but_a_reason():
    source = SimulatedSource(component="gpu:0", waveform=WAVES["steady"], **SAMPLES)
    energy = EnergyEstimator(record(source)).energies([window(START_S + 100, START_S + 110)])[0]
    assert "covers only" in energy.absent["gpu:0"]


def test_a_sensor_that_only_failed_is_absent_with_its_reason():
    source = SimulatedSource(component="gpu:0", waveform=WAVES["steady"])
    trace = Trace.of([source.channel()], [Gap(i * 10**9, 0, "lost") for i in range(5)])
    events = [{"event": "gap", "channel": 0, "t_ns": 0, "reason": "GPU is lost"}]
    trace = replace(trace, events=events)
    energy = EnergyEstimator(trace).energies([window(0, 5)])[0]
    assert energy.absent == {"gpu:0": "GPU is lost"}


def test_absences_stay_unless_another_source_stands_in():
    source = SimulatedSource(component="cpu:0", waveform=WAVES["steady"], **SAMPLES)
    trace = record(source)
    absent = (Absence("cpu", "rapl", "refused", "chmod"), Absence("gpu", "nvml", "no driver"))
    trace = replace(trace, absent=absent)
    energy = EnergyEstimator(trace).energies([window(START_S + 1, START_S + 2)])[0]
    assert energy.absent == {"gpu": "no driver"}


def test_the_preferred_source_is_used_and_the_next_where_it_gave_nothing():
    def channel(priority):
        return Channel(
            component="gpu:0",
            quantity=Quantity.POWER,
            source=f"source {priority}",
            provenance=Provenance.SIMULATED,
            update_period_s=1.0,
            window_s=1.0,
            priority=priority,
        )

    channels = [channel(2), channel(1)]
    second_only = [Reading(i * 10**9, 0, 100.0) for i in range(10)]
    both = second_only + [Reading(i * 10**9, 1, 200.0) for i in range(10)]
    span = window(2, 6)
    assert EnergyEstimator(Trace.of(channels, both)).energies([span])[0].gross_j == pytest.approx(
        800
    )
    energy = EnergyEstimator(Trace.of(channels, second_only)).energies([span])[0]
    assert energy.gross_j == pytest.approx(400)
    assert energy.components["gpu:0"].source == "source 2"


def test_gpu_energy_is_taken_when_the_gpu_worked():
    source = SimulatedSource(component="gpu:0", waveform=WAVES["ramp"], **SAMPLES)
    accounts = EnergyEstimator(record(source))
    ns = [round((START_S + t) * 1e9) for t in (10.0, 10.1, 11.0, 12.0)]
    energy = accounts.energies([Window(ns[0], ns[1], ns[2], ns[3])])[0]
    truth_j = source.waveform.energy_j(START_S + 11, START_S + 12)
    assert energy.gross_j == pytest.approx(truth_j, rel=0.01)
    assert energy.mean_power_w == pytest.approx(truth_j / 1.0, rel=0.01)


def test_an_empty_span_is_worth_nothing_for_sure():
    source = SimulatedSource(component="gpu:0", waveform=WAVES["steady"], **SAMPLES)
    energy = EnergyEstimator(record(source)).energies([window(START_S + 5, START_S + 5)])[0]
    assert energy.gross_j == 0
    assert energy.duration_s == 0


def test_means_of_other_quantities():
    channel = Channel(
        component="host",
        quantity=Quantity.UTILIZATION,
        source="os",
        provenance=Provenance.MEASURED,
        update_period_s=1.0,
    )
    trace = Trace.of([channel], [Reading(i * 10**9, 0, 10.0 * i) for i in range(10)])
    spans = [window(1, 2), window(5, 6)]
    assert mean_reading(trace, "host", Quantity.UTILIZATION, spans) == 35.0
    assert math.isnan(mean_reading(trace, "host", Quantity.TEMPERATURE, spans))
    assert math.isnan(mean_reading(trace, "host", Quantity.UTILIZATION, [window(20, 30)]))


def test_the_default_machines_sources():
    machine = SimulatedMachine.default()
    sources = {source.component for source in machine.sources}
    assert sources == {"gpu:0", "cpu:0", "dram:0"}
