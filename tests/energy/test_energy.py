"""Energies and their uncertainties: sums, text and JSON."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulelab.energy.energy import NEGATIVE_NET, ComponentEnergy, Energy, total
from joulelab.sensors.sensor import Provenance

joules = st.floats(0.001, 1e9)
small = st.floats(0, 0.2)


def part(component="gpu:0", source="test", **values):
    defaults = {"provenance": Provenance.MEASURED, "duration_s": 2.0, "gross_j": 600.0}
    return ComponentEnergy(component=component, source=source, **(defaults | values))


def energy(*parts, absent=None):
    return Energy(duration_s=2.0, components={p.component: p for p in parts}, absent=absent or {})


parts = st.builds(
    part,
    gross_j=joules,
    idle_j=joules,
    duration_s=st.floats(0.001, 1e6),
    gain_uncertainty=small,
    offset_uncertainty_w=small,
    edge_uncertainty_j=small,
    idle_uncertainty_j=small,
)


@given(parts)
def test_the_interval_is_around_the_value(one):
    low, high = one.interval_j
    assert low <= one.gross_j <= high
    assert one.net_interval_j[0] <= one.net_j <= one.net_interval_j[1] <= high
    assert energy(one).net_interval_j[1] <= energy(one).interval_j[1]
    assert math.isclose(one.net_j + one.idle_j, one.gross_j, rel_tol=1e-9, abs_tol=1e-6)


@given(parts, parts)
def test_a_sum_adds_values_and_never_reduces_uncertainty(first, second):
    both = first + second
    assert both.gross_j == first.gross_j + second.gross_j
    assert both.duration_s == first.duration_s + second.duration_s
    assert both.uncertainty_j >= max(first.edge_uncertainty_j, second.edge_uncertainty_j)


def test_a_gain_error_is_the_same_in_every_span():
    one = part(gain_uncertainty=0.05)
    many = total([energy(one)] * 100)
    assert many.components["gpu:0"].uncertainty_j == pytest.approx(100 * one.uncertainty_j)


def test_edge_errors_average_out_over_spans():
    one = part(edge_uncertainty_j=3.0)
    many = total([energy(one)] * 100)
    assert many.components["gpu:0"].uncertainty_j == pytest.approx(10 * 3.0)


def test_an_offset_cancels_in_net_energy():
    one = part(idle_j=200.0, offset_uncertainty_w=5.0)
    assert one.uncertainty_j == pytest.approx(10.0)
    assert one.net_uncertainty_j == 0.0


def test_components_add_up_and_are_independent():
    both = energy(part(gain_uncertainty=0.03), part("cpu:0", gross_j=800.0, gain_uncertainty=0.03))
    half = (both.interval_j[1] - both.interval_j[0]) / 2
    assert both.gross_j == 1400.0
    assert half == pytest.approx(1.959964 * math.hypot(18.0, 24.0))


@pytest.mark.parametrize(
    ("kinds", "weakest"),
    [
        (["measured", "measured"], "measured"),
        (["measured", "estimated"], "estimated"),
        (["simulated", "estimated"], "simulated"),
    ],
)
def test_provenance_is_the_weakest_of_the_components(kinds, weakest):
    both = energy(*(part(f"cpu:{i}", provenance=Provenance(kind)) for i, kind in enumerate(kinds)))
    assert both.provenance == weakest


def test_an_energy_without_components_is_nan_and_never_zero():
    nothing = Energy(duration_s=1.0, absent={"gpu:0": "no driver"})
    assert math.isnan(nothing.gross_j)
    assert math.isnan(nothing.net_j)
    assert math.isnan(nothing.mean_power_w)
    assert str(nothing) == "no energy was measured (gpu:0: no driver)"
    assert nothing.to_json()["gross_j"] is None


def test_without_a_baseline_net_energy_is_unknown():
    assert math.isnan(energy(part()).net_j)
    assert math.isnan(energy(part(idle_j=1.0), part("cpu:0")).idle_j)


def test_net_energy_below_zero_is_explained():
    negative = energy(part(gross_j=600.0, idle_j=700.0))
    assert negative.caveats == (NEGATIVE_NET,)
    assert NEGATIVE_NET in str(negative)
    assert NEGATIVE_NET in negative._repr_html_()
    assert energy(part(gross_j=600.0, idle_j=500.0)).caveats == ()
    hidden = energy(part(gross_j=600.0, idle_j=100.0), part("cpu:0", gross_j=50.0, idle_j=90.0))
    assert hidden.net_j > 0
    assert hidden.caveats == (f"cpu:0: {NEGATIVE_NET}",)
    assert energy(part(gross_j=600.0)).caveats == ()


def test_a_component_measured_in_one_span_only_is_absent_from_the_sum():
    both = energy(part(), part("cpu:0")) + energy(part(), absent={"cpu:0": "file vanished"})
    assert set(both.components) == {"gpu:0"}
    assert both.absent == {"cpu:0": "file vanished"}


def test_different_sources_do_not_add_up():
    both = energy(part(source="rapl")) + energy(part(source="estimate"))
    assert not both.components
    assert "rapl" in both.absent["gpu:0"]
    with pytest.raises(ValueError, match="cannot add"):
        part(source="rapl") + part(source="estimate")


def test_no_spans_have_no_sum():
    with pytest.raises(ValueError, match="no spans"):
        total([])


@given(parts)
def test_json_preserves_everything(one):
    before = energy(one, absent={"dram:0": "why"})
    after = Energy.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert after == before


def test_json_preserves_unknown_values():
    text = json.dumps(energy(part()).to_json(), allow_nan=False)
    assert math.isnan(Energy.from_json(json.loads(text)).net_j)


def test_a_rounding_error_is_no_net_energy():
    energy = Energy(duration_s=1.0, components={"cpu:0": part(gross_j=33.3, idle_j=33.3 + 4.1e-14)})
    assert energy.net_j == energy.to_json()["net_j"] == 0
