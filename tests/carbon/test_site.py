"""The settings of a site, and what energy costs with them."""

import json
import math
import os
from pathlib import Path

import pytest
from energy_parts import energy_of
from hypothesis import given
from hypothesis import strategies as st

from joulelab.carbon.costs import Costs, Factor
from joulelab.carbon.site import Site, local_costs, save_site, site_file
from joulelab.cli.options import complete_country
from joulelab.energy.energy import Energy
from joulelab.errors import UserError

pytestmark = pytest.mark.usefixtures("home")


def test_the_country_is_never_guessed(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    site = Site.configured()
    assert site == Site()
    costs = site.costs(3.6e6, (3.5e6, 3.7e6))
    assert math.isnan(costs.carbon_g)
    assert math.isnan(costs.price)
    assert costs.text() == ""
    assert "joulelab site --country" in costs.no_carbon
    assert costs.to_json()["carbon_g"] is None


def test_costs_follow_from_intensity_pue_and_price():
    energy = energy_of(3.6e6, gain_uncertainty=0.05)
    site = Site(intensity_g_per_kwh=400.0, pue=1.5, price_per_kwh=0.2, currency="EUR")
    costs = site.costs(energy)
    assert costs.carbon_g == pytest.approx(600.0)
    assert costs.price == pytest.approx(0.3)
    low, high = energy.interval_j
    assert costs.carbon_interval_g == pytest.approx((low / 6000, high / 6000))
    assert "400 g/kWh (given), PUE 1.5" in costs.text()
    assert "0.2 EUR/kWh" in costs.text()


def test_costs_name_the_country_and_the_year():
    text = Site(country="FRA").costs(3.6e6).text()
    assert "France, mean of 20" in text
    assert "Ember" in text
    assert "PUE 1" in text


@given(st.floats(0, 1e12), st.floats(0, 2000), st.floats(1, 3))
def test_carbon_is_proportional_to_energy_intensity_and_pue(energy_j, intensity, pue):
    one = Costs(energy_j=energy_j, interval_j=(0.9 * energy_j, 1.1 * energy_j), pue=pue,
        factor=Factor(intensity, "", "", "given"))  # fmt: skip
    assert one.carbon_g == pytest.approx(energy_j / 3.6e6 * intensity * pue)
    low, high = one.carbon_interval_g
    assert low <= one.carbon_g <= high


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"pue": 0.9}, "1 or more"),
        ({"intensity_g_per_kwh": -1.0}, "0 or more"),
        ({"price_per_kwh": math.nan, "currency": "EUR"}, "finite"),
        ({"price_per_kwh": 0.3}, "currency"),
        ({"currency": "€"}, "ISO 4217"),
        ({"country": "Germny"}, "Germany (DE)"),
    ],
)
def test_invalid_settings_are_refused(values, hint):
    with pytest.raises(UserError) as error:
        Site(**values)
    assert hint in str(error.value)


def test_options_override_the_environment_which_overrides_the_file(monkeypatch):
    save_site(country="germany", pue=1.2, price_per_kwh=0.3, currency="EUR")
    assert Site.configured().country == "DE"
    monkeypatch.setenv("JOULELAB_INTENSITY", "50")
    site = Site.configured()
    assert (site.country, site.intensity_g_per_kwh, site.pue) == (None, 50.0, 1.2)
    assert Site.configured(country="FR").factor.location == "France"


def test_a_damaged_file_is_reported(tmp_path):
    save_site(country="DE")
    site_file().write_text("countri = 'DE'\n")
    with pytest.raises(UserError, match="countri"):
        Site.configured()
    for text in ("country = ", "country = " + "[" * 100_000):
        site_file().write_text(text)
        with pytest.raises(UserError, match="cannot read"):
            Site.configured()
    site_file().unlink()
    os.mkfifo(site_file())
    with pytest.raises(UserError, match="not a regular file"):
        Site.configured()


@pytest.mark.parametrize(
    "line",
    ["country = 5", "currency = [1]", "pue = 1e400", "pue = {}", 'intensity_file = "a\\u0000"',
     "intensity_g_per_kwh = nan", "price_per_kwh = 1979-05-27", "pue = true"],
)  # fmt: skip
def test_values_of_another_type_are_reported_and_never_raise_from_costs(line):
    save_site(country="DE")
    site_file().write_text(line)
    with pytest.raises(UserError, match=line.partition(" ")[0]) as error:
        Site.configured()
    assert local_costs(Energy(duration_s=1.0)).no_carbon == str(error.value)


def test_an_intensity_over_time_must_cover_the_energy(tmp_path):
    path = tmp_path / "grid.csv"
    path.write_text("time,g_per_kwh\n1970-01-01T00:00Z,100\n1970-01-01T01:00Z,500\n")
    site = Site(intensity_file=path, country="Baden")
    costs = site.costs(3.6e6, started_unix_s=1800.0, stopped_unix_s=5400.0)
    assert costs.carbon_g == pytest.approx(300.0)
    assert "Baden" in costs.text()
    assert "assuming constant power" in costs.text()
    assert "grid.csv covers" in site.costs(3.6e6, started_unix_s=0, stopped_unix_s=9000).no_carbon
    assert "is unknown" in site.costs(3.6e6).no_carbon


def test_an_invalid_site_gives_no_carbon_and_the_reason(monkeypatch):
    energy = Energy(duration_s=1.0)
    assert "joulelab site" in local_costs(energy).no_carbon
    save_site(country="DE")
    assert local_costs(energy).factor.location == "Germany"
    monkeypatch.setenv("JOULELAB_COUNTRY", "XX")
    costs = local_costs(energy)
    assert "no country 'XX'" in costs.no_carbon
    assert math.isnan(costs.carbon_g)


def test_a_carbon_budget_uses_the_saved_site():
    from joulelab.forecast.loop import EpochOptions

    def intensity_and_pue(**options):
        found = EpochOptions(**options)
        return found.carbon_intensity_g_per_kwh, found.pue

    with pytest.raises(UserError, match="needs a carbon intensity"):
        EpochOptions(max_carbon_g=5.0)
    save_site(intensity_g_per_kwh=400.0, pue=1.5)
    assert intensity_and_pue(max_carbon_g=5.0) == (400.0, 1.5)
    assert intensity_and_pue(max_carbon_g=5.0, pue=2.0) == (400.0, 2.0)
    assert intensity_and_pue(max_energy_j=5.0) == (None, None)
    given = {"max_carbon_g": 5.0, "carbon_intensity_g_per_kwh": 50.0}
    assert intensity_and_pue(**given) == (50.0, None)


def test_the_command_saves_shows_and_resets(refused, printed):
    assert "unknown" in printed("site")
    out = printed("site", "--country", "de", "--price", "0.30", "--currency", "EUR")
    assert "Germany" in out
    shown = json.loads(printed("site", "--json"))
    assert (shown["country"], shown["price_per_kwh"], shown["pue"]) == ("DE", 0.3, 1.0)
    assert Path(shown["kept_in"]).exists()
    refused("site", "--country", "Germny")
    refused("site", "--reset", "--pue", "1.2")
    for option in ("--reset", "--forget"):
        save_site(country="DE")
        printed("site", option)
        assert not site_file().exists()


def test_a_file_that_cannot_be_read_is_not_saved(refused, tmp_path):
    path = tmp_path / "empty.csv"
    path.touch()
    assert "empty.csv has no column of times" in refused("site", "--intensity-file", path)
    assert not site_file().exists()


def test_forecast_accepts_the_former_name_of_the_intensity(printed, tmp_path):
    path = tmp_path / "epochs.csv"
    path.write_text("epoch,duration_s,gross_j\n" + "".join(f"{i},60,3.6e6\n" for i in range(9)))
    options = ("forecast", path, "--epochs", 9, "--json")
    found = [
        json.loads(printed(*options, name, 400))["carbon_g"]
        for name in ("--intensity", "--carbon-intensity")
    ]
    assert found == pytest.approx([3600.0] * 2)


def test_shells_complete_countries():
    found = {item.value: item.help for item in complete_country(None, None, "d")}
    assert found["DE"] == "Germany"
    assert all(code.startswith("D") for code in found)
