"""Idle power between, before and after its measurements."""

import json
import math

import pytest
from energy_parts import component_energy, idle_point
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.baseline import Baseline, IdlePoint
from joulelab.energy.energy import Energy
from joulelab.sensors.sensor import Provenance


def point(time_s, power_w, uncertainty_w=0.1, source="test"):
    return idle_point({"gpu:0": power_w}, uncertainty_w=uncertainty_w, source=source, time_s=time_s)


def span(gross_j, duration_s, source="test"):
    part = component_energy(
        "gpu:0", gross_j, source=source, provenance=Provenance.MEASURED, duration_s=duration_s
    )
    return Energy(duration_s=duration_s, components={"gpu:0": part})


@given(st.floats(0, 100), st.floats(50, 150), st.floats(50, 150))
def test_idle_power_between_two_points_lies_between_them(time_s, cold_w, warm_w):
    power_w, uncertainty_w = Baseline((point(0, cold_w), point(100, warm_w))).power(
        "gpu:0", "test", time_s
    )
    assert min(cold_w, warm_w) - 1e-9 <= power_w <= max(cold_w, warm_w) + 1e-9
    assert uncertainty_w >= abs(warm_w - cold_w) / math.sqrt(12)


def test_a_steady_baseline_is_less_certain_outside_its_points():
    baseline = Baseline((point(100, 120.0), point(0, 120.0)))
    _, between = baseline.power("gpu:0", "test", 50)
    _, after = baseline.power("gpu:0", "test", 150)
    _, before = baseline.power("gpu:0", "test", -50)
    assert between < 0.2
    assert after > 4.0
    assert before == after


def test_idle_energy_covers_the_spans_own_length_and_not_t_m():
    net = Baseline((point(0, 100.0),)).subtract(span(3000.0, 20.0), 0.0, 20.0)
    assert net.idle_j == pytest.approx(2000.0)
    assert net.net_j == pytest.approx(1000.0)


@pytest.mark.parametrize(
    "baseline", [Baseline(()), Baseline((point(0, 100.0, source="another sensor"),))]
)
def test_without_a_point_of_the_same_source_net_energy_is_unknown(baseline):
    assert math.isnan(baseline.subtract(span(3000.0, 20.0), 0.0, 20.0).net_j)


def test_an_idle_span_becomes_a_point():
    idle = IdlePoint.from_energy(span(600.0, 5.0), time_s=7.0)
    assert idle.power_w == {"gpu:0": 120.0}
    assert idle.at(9.0).time_s == 9.0


def test_json_preserves_everything():
    baseline = Baseline((point(0, 119.0), point(180, 128.0)))
    assert Baseline.from_json(json.loads(json.dumps(baseline.to_json()))) == baseline
