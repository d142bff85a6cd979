"""No readings, however strange, make the estimator raise."""

from itertools import pairwise

import numpy as np
import pytest
from energy_parts import make_channel
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy import estimator as estimator_module
from joulelab.energy.estimator import EnergyEstimator
from joulelab.recording.trace import Readings, Trace, in_order
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Channel, Provenance, Quantity

S = 10**9


@st.composite
def readings(draw):
    count = draw(st.integers(0, 120))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    step_s = draw(st.sampled_from([0.0, 0.001, 0.02, 0.1, 1.0]))
    t_s = 10 + np.cumsum(rng.uniform(0, 2 * step_s, count))
    scale = draw(st.sampled_from([0.0, 1e-300, 1.0, 300.0, 2500.0, 1e9, 1e300]))
    value = {
        "equal": lambda: np.full(count, scale),
        "random": lambda: rng.uniform(0, 1, count) * scale,
        "rising": lambda: np.cumsum(rng.uniform(0, 1, count)) * scale,
        "signed": lambda: rng.normal(0, 1, count) * scale,
    }[draw(st.sampled_from(["equal", "random", "rising", "signed"]))]()
    for special in draw(st.sets(st.sampled_from([np.nan, np.inf, -np.inf, 0.0]))):
        value[rng.uniform(0, 1, count) < 0.1] = special
    return in_order(np.rint(t_s * 1e9).astype(np.int64), value)


@st.composite
def channels(draw):
    return Channel(
        component="gpu:0",
        quantity=draw(st.sampled_from([Quantity.POWER, Quantity.ENERGY])),
        source=f"source.{draw(st.integers(0, 9))}",
        provenance=Provenance.MEASURED,
        update_period_s=draw(st.sampled_from([0.001, 0.02, 0.1, 1.0])),
        window_s=draw(st.sampled_from([0.0, 0.02, 0.1, 1.0])),
        polled=draw(st.booleans()),
        gain_uncertainty=draw(st.sampled_from([0.0, 0.065])),
        wrap=draw(st.sampled_from([None, 100.0, 262_143.0])),
        priority=draw(st.integers(0, 3)),
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None)
@given(
    sources=st.lists(st.tuples(channels(), readings()), min_size=1, max_size=3),
    edges=st.lists(st.floats(9.0, 40.0), min_size=2, max_size=12),
)
def test_any_readings_give_a_finite_energy_or_a_reason(sources, edges):
    own, series = zip(*sources, strict=True)
    trace = Trace(own, series)
    windows = [Window(round(min(pair) * S), round(max(pair) * S)) for pair in pairwise(edges)]
    points = [edge for window in windows for edge in (window.start_ns, window.stop_ns)]
    for energy in EnergyEstimator(trace, change_points_ns=points).energies(windows):
        part = energy.components.get("gpu:0")
        if part is None:
            assert energy.absent["gpu:0"]
            continue
        assert np.isfinite(part.gross_j)
        assert not np.isnan(part.uncertainty_j)


def test_an_error_of_the_arithmetic_is_a_reason(monkeypatch):
    def fail(*_):
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(estimator_module, "energy_curve", fail)
    channel = make_channel(source="power", provenance=Provenance.MEASURED)
    trace = Trace((channel,), (Readings(np.arange(5) * S, np.ones(5)),))
    [energy] = EnergyEstimator(trace).energies([Window(0, 4 * S)])
    assert energy.absent == {"gpu:0": "its readings cannot be integrated: SVD did not converge"}


@pytest.mark.parametrize("window_s", [0.0, 0.1])
def test_short_spans_next_to_each_other_on_power_without_a_window(window_s):
    channel = make_channel(
        source="power", provenance=Provenance.MEASURED, window_s=window_s, polled=True
    )
    t_s = np.arange(10, 20, 0.1)
    trace = Trace((channel,), (Readings(np.rint(t_s * S).astype(np.int64), 100 + 200 * (t_s % 1)),))
    edges_s = np.arange(11, 18, 0.17)
    windows = [Window(round(a * S), round(b * S)) for a, b in pairwise(edges_s)]
    points = [round(edge * S) for edge in edges_s]
    for energy in EnergyEstimator(trace, change_points_ns=points).energies(windows):
        low_j, high_j = energy.interval_j
        assert 0 <= low_j < energy.gross_j < high_j < 200
