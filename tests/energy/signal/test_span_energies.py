"""Spans that are read in parts have the energies that one curve gives."""

from dataclasses import replace

import numpy as np
import pytest
from energy_parts import make_channel

from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.signal import span_energies, thinning
from joulelab.recording.span_columns import NONE, Windows
from joulelab.recording.trace import Readings, Trace
from joulelab.sensors.sensor import Quantity

S = 10**9
LENGTH_S, STEP_S = 600.0, 0.09
RING = make_channel(source="ring", update_period_s=0.02, window_s=0.02)
AVERAGE = replace(RING, source="average", update_period_s=0.1, window_s=1.0, polled=True)
COUNTER = replace(
    RING, source="rapl", quantity=Quantity.ENERGY, update_period_s=0.1, window_s=0.0, polled=True
)


def recorded(channel, silent_s=()):
    """Record 100 W, and 300 W more for a second in two; ``silent_s`` is without readings."""
    t_s = np.arange(1, 1 + LENGTH_S, channel.update_period_s)

    def energy_j(t_s):
        return 100 * t_s + 300 * (np.floor(t_s / 2) + np.minimum(t_s % 2, 1))

    if channel.quantity is Quantity.ENERGY:
        # A polled value is half an update old on average.
        value = energy_j(t_s - channel.update_period_s / 2)
    else:
        value = (energy_j(t_s) - energy_j(t_s - channel.window_s)) / channel.window_s
    t_ns = np.rint(t_s * S).astype(np.int64)
    for start_s, stop_s in silent_s:
        value[(t_s >= start_s) & (t_s < stop_s)] = np.nan
    return Readings(t_ns, value)


def steps(device=False):
    """Return short spans that follow each other, and some long ones, in no order."""
    start_s = np.arange(2, LENGTH_S - 1, STEP_S)
    stop_s = start_s + 0.8 * STEP_S
    stop_s[::700] = LENGTH_S - 0.5
    order = np.random.default_rng(3).permutation(start_s.size)
    times = np.rint(np.stack((start_s, stop_s), axis=1)[order] * S).astype(np.int64)
    on_device = None
    if device:
        on_device = np.column_stack((times + 5_000_000, np.full(len(times), 100_000)))
        on_device[::10] = NONE, NONE, 0
    return Windows(*times.T, on_device)


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("channels", [[RING], [AVERAGE], [COUNTER], [RING, COUNTER]])
def test_energies_do_not_depend_on_parts(channels, device, monkeypatch):
    silent_s = [(200, 203), (300, 420)]
    series = tuple(recorded(one, silent_s if one is channels[0] else ()) for one in channels)
    trace = Trace(tuple(channels), series)
    windows = steps(device)
    whole = EnergyEstimator(trace).energies(windows)
    total = EnergyEstimator(trace).total(windows)
    monkeypatch.setattr(span_energies, "SPANS_AT_A_TIME", 500)
    monkeypatch.setattr(span_energies, "MANY_SPANS", 2000)
    monkeypatch.setattr(thinning, "MIN_READINGS", 1000)
    read = []
    in_parts = span_energies._read_in_parts

    def watched(*args):
        left = in_parts(*args)
        read.append(len(windows) - left.size)
        return left

    monkeypatch.setattr(span_energies, "_read_in_parts", watched)
    parts = EnergyEstimator(trace).energies(windows)
    assert min(read) > 0.4 * len(windows), "few spans are read in parts, so that little is tested"
    for one, other in zip(whole, parts, strict=True):
        assert other.components.keys() == one.components.keys()
        assert other.absent == one.absent
        if one.components:
            half_width = (one.interval_j[1] - one.interval_j[0]) / 2
            # The long spans are read off a thinned curve, which is exact to some per mille.
            tolerance_j = max(0.1 * half_width, 1e-3 * one.gross_j)
            assert other.gross_j == pytest.approx(one.gross_j, abs=tolerance_j)
            assert other.gap_s == pytest.approx(one.gap_s, abs=1e-6)
    # A part shows the latency of its readings and the powers of states with its own spans alone.
    widths_j = np.array(
        [
            np.diff((one.interval_j, other.interval_j))[:, 0]
            for one, other in zip(whole, parts, strict=True)
            if one.components
        ]
    )
    ratio = np.divide(*widths_j.T, out=np.ones(len(widths_j)), where=widths_j[:, 1] > 0)
    assert np.quantile(ratio, [0.1, 0.5, 0.9]) == pytest.approx([1, 1, 1], abs=0.3)
    assert EnergyEstimator(trace).total(windows).gross_j == pytest.approx(total.gross_j, rel=1e-3)
