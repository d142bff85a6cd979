"""A counter that was not read for a while, and polls that drift against its updates."""

import random
from dataclasses import replace

import numpy as np
import pytest

from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Trace
from joulelab.recording.trace_spans import Window
from joulelab.sensors.simulated import SimulatedSource, Waveform

READ_S = 0.1
HOLE_S = 3.0


def recording(update_period_s, period_s, rng, hole_at_s=None, drift=False):
    """30 s of 100 and 600 W with one hole, or polls that move against the updates."""
    load = Waveform.square(low_w=100, high_w=600, period_s=period_s, duty=0.4)
    source = SimulatedSource(
        component="gpu:0",
        waveform=load,
        kind="counter",
        update_period_s=update_period_s,
        interval_s=READ_S,
        resolution=1e-3,
    )
    readings, after_ns = [], 10**10
    t_s = 10 + rng.uniform(0, READ_S)
    moves_s = t_s + rng.uniform(2, 6)
    while t_s < 40:
        now_ns = round((t_s + abs(rng.gauss(0, 0.0003))) * 1e9)
        readings += source.readings(after_ns, now_ns)
        after_ns = now_ns
        t_s += READ_S
        if drift and t_s > moves_s:
            t_s += rng.uniform(0, READ_S)
            moves_s = t_s + rng.uniform(2, 6)
        if hole_at_s is not None and hole_at_s < t_s < hole_at_s + READ_S:
            t_s += HOLE_S
    trace = Trace.of([source.channel()], readings)
    return load, replace(trace, header={"intervals_s": [READ_S]})


def parts_of(trace, spans_s):
    windows = [Window(*(round(edge * 1e9) for edge in span)) for span in spans_s]
    points = [edge for window in windows for edge in (window.start_ns, window.stop_ns)]
    energies = EnergyEstimator(trace, change_points_ns=points).energies(windows)
    return [(energy.components["gpu:0"], energy.notes) for energy in energies]


@pytest.mark.parametrize("update_period_s", [0.1, 0.001])
@pytest.mark.parametrize("where", ["within", "over an edge"])
def test_the_course_within_a_hole_is_unknown(update_period_s, where):
    held = []
    for seed in range(25):
        rng = random.Random(seed)
        load, trace = recording(update_period_s, rng.uniform(0.5, 4), rng, hole_at_s=20.0)
        within = [(a, a + rng.uniform(0.2, 0.5)) for a in (rng.uniform(20.2, 22.4),)]
        over = [(a, a + rng.uniform(2, 4)) for a in (rng.uniform(18, 19.5), rng.uniform(21, 22.5))]
        for span in within if where == "within" else over:
            [(part, notes)] = parts_of(trace, [span])
            low_j, high_j = part.interval_j
            held.append(low_j <= load.energy_j(*span) <= high_j)
            inside_s = min(span[1], 23.1) - max(span[0], 20.05)
            assert part.gap_s == pytest.approx(inside_s, abs=0.3)
            assert any("was not read for a while" in note for note in notes)
    assert np.mean(held) >= 0.93


def test_the_energy_of_a_whole_hole_is_known():
    load, trace = recording(0.001, 1.37, random.Random(1), hole_at_s=20.0)
    [(part, _)] = parts_of(trace, [(15.0, 30.0)])
    assert part.gross_j == pytest.approx(load.energy_j(15.0, 30.0), rel=0.01)
    assert part.uncertainty_j < 0.02 * part.gross_j
    assert part.gap_s == pytest.approx(HOLE_S, abs=0.2)


def test_a_span_without_a_hole_is_as_before():
    load, trace = recording(0.001, 1.37, random.Random(1), hole_at_s=20.0)
    [(part, notes)] = parts_of(trace, [(25.0, 30.0)])
    assert part.gap_s == 0
    assert notes == ()
    assert part.interval_j[0] <= load.energy_j(25.0, 30.0) <= part.interval_j[1]


def test_no_stretch_of_a_drifting_grid_of_polls_is_thrown_away():
    # Of 200 seeds, those in which up to 19 s of readings were left out.
    held, errors = [], []
    for seed in (34, 63, 83, 101, 130, 155):
        load, trace = recording(0.1, 1.37, random.Random(seed), drift=True)
        spans = [(a, a + 0.3) for a in np.arange(11, 38, 0.17)]
        for span, (part, _) in zip(spans, parts_of(trace, spans), strict=True):
            true_j = load.energy_j(*span)
            held.append(part.interval_j[0] <= true_j <= part.interval_j[1])
            errors.append(abs(part.gross_j / true_j - 1))
    assert np.mean(held) >= 0.93
    assert max(errors) < 1.5
