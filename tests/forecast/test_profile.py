"""Rows of several phases, the sensors' uncertainty, and what a forecast says of itself."""

import json
import math

import pytest
from energy_parts import component_energy
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.attribution import Share
from joulelab.energy.energy import ComponentEnergy, Energy
from joulelab.errors import UserError
from joulelab.forecast.profile import Profile, Row
from joulelab.sensors.sensor import Provenance


def row(phase="epoch", duration_s=60.0, gross_j=6000.0, **further):
    return Row(phase=phase, duration_s=duration_s, gross_j=gross_j, **further)


def counts(rows, epochs):
    forecast = Profile(rows).forecast(epochs)
    return {phase.phase: phase.count for phase in forecast.phases}


@given(st.integers(1, 9), st.integers(1, 300), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_a_phase_that_returns_every_few_epochs_is_extrapolated(period, epochs, seen):
    rows = []
    for i in range(1, seen + 1):
        rows.append(row())
        if i % period == 0:
            rows += [row("validate", 5.0, 300.0), row("checkpoint", 1.0, 50.0)]
    expected = {"epoch": epochs}
    if seen >= period:
        expected |= {"validate": epochs // period, "checkpoint": epochs // period}
    assert counts(rows, epochs) == expected


@pytest.mark.parametrize(("fraction", "is_shared"), [(1.0, False), (0.85, False), (0.7, True)])
def test_programs_that_use_little_of_a_machine_do_not_make_it_shared(fraction, is_shared):
    share = Share(fraction=fraction, low=0.9 * fraction, high=1.0, method="CPU time")
    part = component_energy("cpu:0", 10.0, duration_s=1.0, share=share)
    made = Row.of("epoch", Energy(duration_s=1.0, components={"cpu:0": part}))
    assert made.is_shared is is_shared


def test_other_programs_widen_the_interval_if_they_ran_for_half_of_the_profile():
    def half_width(shared):
        rows = [row(gross_j=6000.0 + 50 * (-1) ** i, is_shared=i < shared) for i in range(6)]
        return Profile(rows).forecast(100).uncertainty

    assert half_width(0) == half_width(2) < half_width(3) == half_width(6)


def test_epochs_shorter_than_what_slows_them_widen_the_interval():
    def half_width(duration_s):
        rows = [Row("epoch", duration_s, 10.0 + 0.5 * (-1) ** i) for i in range(10)]
        validations = [Row("validate", 10 * duration_s, 10.0)] * 2
        return Profile([*rows, *validations]).forecast(100).uncertainty

    assert half_width(0.01) == half_width(0.09) > half_width(0.11) == half_width(100.0)


def test_two_validations_per_epoch_stay_two():
    rows = [row(), row("validate", 5.0, 300.0), row("validate", 5.0, 310.0)] * 3
    assert counts(rows, 50) == {"epoch": 50, "validate": 100}


def test_rows_before_the_first_epoch_happen_once():
    rows = [row("compile", 100.0, 9000.0), *[row()] * 5]
    forecast = Profile(rows).forecast(50)
    assert forecast.gross_j == pytest.approx(9000 + 50 * 6000, rel=1e-3)
    assert forecast.duration_s == pytest.approx(100 + 50 * 60, rel=1e-3)
    assert [phase.phase for phase in forecast.phases] == ["epoch"]


def test_phases_add_up():
    rows = [row(), row("validate", 5.0, 300.0)] * 4
    forecast = Profile(rows).forecast(100)
    assert forecast.gross_j == pytest.approx(100 * 6300, rel=1e-3)
    assert sum(phase.gross_j for phase in forecast.phases) == pytest.approx(forecast.gross_j)
    assert sum(phase.duration_s for phase in forecast.phases) == pytest.approx(forecast.duration_s)
    assert forecast.spent_fraction == pytest.approx(0.04, rel=0.01)


def test_the_sensors_scale_is_stated_apart():
    """It is the same error in the profile and in what these sensors will report."""
    exact, blurred = (
        Profile([row(gain_uncertainty=gain)] * 30).forecast(1000) for gain in (0.0, 0.05)
    )
    assert (exact.gross_low_j, exact.gross_high_j) == (blurred.gross_low_j, blurred.gross_high_j)
    assert exact.scale_uncertainty == 0.0
    assert blurred.scale_uncertainty == pytest.approx(0.098, rel=1e-3)
    assert "their scale is ±9.8 %" in blurred.details()[1]


def test_two_epochs_that_differ_widely_determine_nothing():
    """Energy, carbon and money would otherwise begin below 0."""
    rows = [row(gross_j=60.0, duration_s=1.0), row(gross_j=440.0, duration_s=7.3)]
    forecast = Profile(rows).forecast(100, carbon_intensity_g_per_kwh=400.0)
    assert not forecast.is_determined
    assert forecast.gross_low_j > forecast.spent_j == 500.0
    text = str(forecast)
    assert text.startswith("100 epochs: cannot be determined from 2 epochs; at least ")
    assert "CO2e" not in text
    steady = Profile([row(gross_j=240.0), row(gross_j=250.0)]).forecast(100)
    assert steady.is_determined
    assert str(steady).startswith("100 epochs: 24.5 kJ (95 % CI ")


def test_one_epoch_is_singular():
    lines = [str(Profile([row()]).forecast(1)), *Profile([row()]).forecast(100).details()]
    assert lines[0].startswith("1 epoch: ")
    assert lines[1].startswith("1 epoch measured, 1.00 % of the run")


@given(
    st.lists(st.floats(0.1, 1e4), min_size=1, max_size=8), st.floats(0.0, 0.5), st.floats(0.0, 1e4)
)
@settings(max_examples=60, deadline=None)
def test_no_interval_begins_below_what_is_spent(energies_j, gain, edge_j):
    rows = [
        row(gross_j=one, gain_uncertainty=gain, edge_uncertainty_j=edge_j) for one in energies_j
    ]
    forecast = Profile(rows).forecast(100)
    assert forecast.spent_j <= forecast.gross_low_j <= forecast.gross_j <= forecast.gross_high_j


def test_a_second_validation_once_does_not_repeat():
    rows = [row(), row("validate", 5.0, 300.0)] * 10
    rows.append(row("validate", 5.0, 300.0))
    assert counts(rows, 100) == {"epoch": 100, "validate": 100}


def test_the_uncertainty_of_a_forecast_does_not_depend_on_the_sensors_scale():
    sharp, blurred = (
        Profile([row(gain_uncertainty=gain)] * 30).forecast(1000, within=0.02)
        for gain in (0.0, 0.05)
    )
    assert sharp.uncertainty == blurred.uncertainty
    assert blurred.sure == sharp.sure


def test_edges_set_a_lower_limit_for_the_interval_of_few_rows():
    forecast = Profile([row(edge_uncertainty_j=1200.0)] * 3).forecast(100)
    per_epoch_j = 1.96 * 1200 / math.sqrt(3)
    assert forecast.gross_high_j - forecast.gross_j >= 100 * per_epoch_j * 0.999


def test_energy_that_was_not_measured_is_not_zero():
    forecast = Profile([row(gross_j=math.nan)] * 4).forecast(100)
    assert math.isnan(forecast.gross_j)
    assert forecast.duration_s == pytest.approx(6000, rel=1e-3)
    assert forecast.spent_fraction == pytest.approx(0.04, rel=0.01)
    data = json.loads(json.dumps(forecast.to_json(), allow_nan=False))
    assert data["gross_j"] is None
    assert data["gross_low_j"] is None


def test_unmeasured_epochs_are_forecast_from_the_others():
    rows = [row(), row(gross_j=math.nan), row(), row()]
    assert Profile(rows).forecast(100).gross_j == pytest.approx(600_000, rel=1e-3)


def test_carbon_needs_an_intensity():
    profile = Profile([row()] * 4)
    assert profile.forecast(100).carbon_g is None
    assert "carbon_g" not in profile.forecast(100).to_json()
    with_site = profile.forecast(100, carbon_intensity_g_per_kwh=360.0, pue=1.5)
    value, low, high = with_site.carbon_g
    assert value == pytest.approx(with_site.gross_j / 3.6e6 * 360 * 1.5)
    assert low < value < high


def test_a_row_has_the_uncertainties_of_its_energy():
    parts = {
        name: ComponentEnergy(
            component=name,
            source="s",
            provenance=Provenance.MEASURED,
            duration_s=10.0,
            gross_j=gross_j,
            gain_uncertainty=0.05,
            edge_uncertainty_j=3.0,
        )
        for name, gross_j in (("gpu:0", 3000.0), ("cpu:0", 1000.0))
    }
    made = Row.of("epoch", Energy(duration_s=10.0, components=parts))
    assert made.gross_j == 4000.0
    assert made.edge_uncertainty_j == pytest.approx(math.hypot(3, 3))
    assert made.gain_uncertainty * 4000 == pytest.approx(math.hypot(150, 50))


@pytest.mark.parametrize(
    ("rows", "epochs", "message"),
    [
        ([], 10, "no epoch"),
        ([row("validate")], 10, "no epoch"),
        ([row(duration_s=0.0)], 10, "duration"),
        ([row(duration_s=math.nan)], 10, "duration"),
        ([row()], 0, "epochs"),
        ([row()], math.nan, "epochs"),
    ],
)
def test_invalid_profiles_are_refused(rows, epochs, message):
    with pytest.raises(UserError, match=message):
        Profile(rows).forecast(epochs)
