"""The shipped table of carbon intensities by country."""

import pytest

from joulelab.carbon.factors import countries, country
from joulelab.errors import UserError


def test_codes_and_names_are_unique_and_complete():
    table = countries()
    for key in ("alpha2", "alpha3", "name"):
        assert len({getattr(one, key) for one in table}) == len(table)
    assert all(len(one.alpha2) == 2 and len(one.alpha3) == 3 for one in table)


def test_intensities_are_dated_and_plausible():
    for one in countries():
        assert 2000 <= one.year <= 2026
        # Nothing below hydropower's life cycle, nothing above lignite's.
        assert 5 < one.g_per_kwh < 1500


@pytest.mark.parametrize("name", ["DE", "de", "deu", "Germany", " GERMANY "])
def test_a_country_by_code_or_name_in_any_case(name):
    assert country(name).alpha2 == "DE"


def test_reserved_codes_are_known():
    assert (country("UK").name, country("el").name) == ("United Kingdom", "Greece")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("Germny", "Germany (DE)"), ("United State", "United States (US)"), ("XX", "ISO 3166"),
     ("atlantis", "ISO 3166"), ("", "ISO 3166")],
)  # fmt: skip
def test_an_unknown_country_has_a_hint(name, hint):
    with pytest.raises(UserError) as error:
        country(name)
    assert hint in str(error.value)
