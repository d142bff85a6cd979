"""Recordings of a simulated machine under a known load, and what they show."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from joulelab.doctor.load_pattern import LoadPattern
from joulelab.doctor.verdicts import Verdict, examine
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Provenance
from joulelab.sensors.simulated import SimulatedSource, Waveform

START_S, PAUSE_S, LOAD_S = 100.0, 15.0, 20.0
PATTERN = LoadPattern.starting(START_S + PAUSE_S, LOAD_S)
PAUSE = Window(round(START_S * 1e9), round((START_S + PAUSE_S) * 1e9))
STOP_S = START_S + PAUSE_S + LOAD_S


def loaded(idle_w, load_w):
    """The power of a component that the load uses."""
    points = [(0.0, idle_w)]
    for one in PATTERN.on:
        points += [(one.start_ns * 1e-9, idle_w), (one.start_ns * 1e-9, load_w)]
        points += [(one.stop_ns * 1e-9, load_w), (one.stop_ns * 1e-9, idle_w)]
    return Waveform((*points, (1000.0, idle_w)))


RING = SimulatedSource(component="gpu:0", waveform=loaded(70, 400), gain_uncertainty=0.02)
COUNTER = replace(RING, kind="counter", update_period_s=0.1, interval_s=0.5)
PACKAGE = SimulatedSource(
    component="cpu:0",
    waveform=loaded(20, 90),
    kind="counter",
    update_period_s=0.001,
    interval_s=0.1,
    resolution=61e-6,
    gain_uncertainty=0.05,
)


def examined(
    *sources,
    provenance=Provenance.MEASURED,
    kinds=("cpu", "gpu"),
    busy=(),
    delay_s=0.0,
    contains=MappingProxyType({}),
):
    channels, readings, intervals_s = [], [], []
    for position, source in enumerate(sources):
        channel = replace(
            source.channel(),
            contains=contains.get(source.component, ()),
            provenance=provenance,
            priority=position,
            note="",
            source=f"s{position}",
        )
        channels.append(channel)
        intervals_s.append(source.interval_s)
        last_ns = round((START_S - 1) * 1e9)
        while last_ns < (STOP_S + 1) * 1e9:
            now_ns = last_ns + round(source.interval_s * 1e9)
            found = source.readings(last_ns, now_ns, position)
            readings += [one._replace(t_ns=one.t_ns + round(delay_s * 1e9)) for one in found]
            last_ns = now_ns
    trace = replace(Trace.of(channels, readings), header={"intervals_s": intervals_s})
    return examine(trace, PAUSE, dict.fromkeys(kinds, PATTERN), busy)


def test_sources_that_agree_are_trusted_from_the_length_that_they_resolve():
    found = examined(RING, COUNTER)
    [one] = found.components
    assert not found.contradicts
    assert one.verdict is Verdict.TRUST
    assert one.follows_load
    assert one.idle_w == pytest.approx(70, rel=0.01)
    assert one.load_w == pytest.approx(400, rel=0.01)
    assert 0.05 <= one.shortest_span_s <= 1.0
    # 2 % of gain at k = 1, and what the edges add.
    assert 0.039 <= one.uncertainty <= 0.06
    ring, counter = found.sources
    assert ring.update_period_s == pytest.approx(0.02, abs=0.001)
    assert ring.noise_w == pytest.approx(0, abs=1e-6)
    assert ring.delay_s <= 0.04
    assert counter.update_period_s == pytest.approx(0.5, rel=0.05)
    assert (ring.gaps, counter.gaps) == (0, 0)


@pytest.mark.parametrize("gain", [0.5, 1.3, 2.31])
def test_a_counter_of_another_scale_is_a_contradiction(gain):
    found = examined(RING, replace(COUNTER, gain=gain))
    [one] = found.components
    assert found.contradicts
    assert one.verdict is Verdict.CONTRADICTION
    assert f"{max(gain, 1 / gain):.2f} times the energy" in one.text
    assert "s0" in one.text
    assert "s1" in one.text


@pytest.mark.parametrize("gain", [0.95, 1.05])
def test_sources_within_their_uncertainty_are_none(gain):
    assert not examined(RING, replace(COUNTER, gain=gain)).contradicts


def test_two_power_readings_that_differ_are_a_contradiction():
    polled = replace(RING, kind="power", update_period_s=0.1, window_s=0.1, interval_s=0.1)
    assert examined(RING, replace(polled, gain=1.4)).contradicts
    assert not examined(RING, polled).contradicts


def test_a_counter_that_stands_still_next_to_power_is_named():
    still = replace(COUNTER, waveform=Waveform.constant(0.0))
    found = examined(RING, still)
    assert found.components[0].source == "s0"
    assert any("s1 gives no energy" in note for note in found.notes)


def test_a_source_alone_that_ignores_the_load_is_doubtful():
    still = replace(PACKAGE, waveform=Waveform.constant(55.0))
    [one] = examined(still).components
    assert one.verdict is Verdict.DOUBT
    assert "did not rise" in one.text
    # On a busy machine, and without a load, nothing follows from it.
    assert examined(still, busy=["cpu"]).components[0].verdict is Verdict.TRUST
    [unloaded] = examined(still, kinds=()).components
    assert unloaded.verdict is Verdict.TRUST
    assert unloaded.follows_load is None


def test_a_counter_that_follows_the_load_is_trusted():
    found = examined(PACKAGE)
    [one] = found.components
    assert one.verdict is Verdict.TRUST
    assert one.text.startswith("energy of spans from ")
    [source] = found.sources
    assert source.delay_s <= 0.06
    assert source.resolution == pytest.approx(61e-6)


@pytest.mark.parametrize(("window_s", "delay_s"), [(0.1, 0.0), (1.0, 0.0), (1.0, 0.6)])
def test_window_and_delay_are_seen(window_s, delay_s):
    slow = replace(RING, kind="power", update_period_s=0.1, window_s=window_s, interval_s=0.1)
    found = examined(slow, delay_s=delay_s)
    [source] = found.sources
    # A poll is up to an update period late.
    assert source.delay_s == pytest.approx(delay_s + 0.05, abs=0.08)
    assert source.window_s == window_s
    assert any("late" in note for note in found.notes) is (delay_s > 0.3)


def test_an_estimate_is_only_an_estimate():
    source = replace(PACKAGE, gain_uncertainty=0.25)
    [one] = examined(source, provenance=Provenance.ESTIMATED).components
    assert one.verdict is Verdict.ESTIMATE
    assert one.text == "within 50 %"


def test_a_measurement_with_a_wide_interval_is_doubtful():
    [one] = examined(replace(PACKAGE, gain_uncertainty=0.25)).components
    assert one.verdict is Verdict.DOUBT


def test_what_is_simulated_follows_no_load():
    found = examined(RING, provenance=Provenance.SIMULATED)
    assert found.components[0].follows_load is None
    assert found.components[0].verdict is Verdict.TRUST


NODE = replace(
    PACKAGE,
    component="node",
    waveform=loaded(100, 200),
    kind="power",
    update_period_s=1.0,
    window_s=1.0,
    interval_s=1.0,
)


def test_a_meter_around_others_is_compared_with_its_parts():
    found = examined(PACKAGE, NODE, contains={"node": ("cpu",)})
    assert not found.contradicts
    node = next(one for one in found.components if one.component == "node")
    assert node.verdict is Verdict.TRUST
    assert node.follows_load
    # Its last value in the pause is a mean over the load, too.
    assert node.idle_w == pytest.approx(100, rel=0.05)


def test_a_meter_that_reports_less_than_its_parts_is_a_contradiction():
    low = replace(NODE, waveform=loaded(30, 60))
    found = examined(PACKAGE, low, contains={"node": ("cpu",)})
    assert found.contradicts
    verdicts = {one.component: one for one in found.components}
    assert verdicts["node"].verdict is Verdict.CONTRADICTION
    assert "reports less than cpu:0" in verdicts["node"].text
    assert verdicts["cpu:0"].verdict is Verdict.TRUST


def test_a_meter_that_is_slow_to_follow_is_not_doubted_for_that():
    steady = replace(NODE, waveform=Waveform.constant(150))
    found = examined(PACKAGE, steady, contains={"node": ("cpu",)})
    assert next(one for one in found.components if one.component == "node").follows_load is None
