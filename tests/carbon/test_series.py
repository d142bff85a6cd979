"""Carbon intensity over time: from a file, and weighted by the energy of a trace."""

import math

import pytest
from energy_parts import make_channel
from hypothesis import given
from hypothesis import strategies as st

from joulelab.carbon.series import IntensitySeries, energy_weighted_intensity, read_series
from joulelab.errors import UserError
from joulelab.recording.trace import Trace
from joulelab.sensors.sensor import Provenance, Quantity, Reading

UNIX_S = 1_800_000_000.0
"""How far the wall clock is ahead of CLOCK_MONOTONIC in these traces."""


def trace_of(powers_w, step_s=100.0, ahead_s=lambda t: UNIX_S):
    """An energy counter under known power, and the wall clock."""
    counter = make_channel("gpu:0", Quantity.ENERGY, source="counter", update_period_s=1.0)
    clock = make_channel(
        "clock",
        Quantity.CLOCK_OFFSET,
        source="clock.realtime",
        provenance=Provenance.MEASURED,
        update_period_s=1.0,
    )
    readings, energy_j = [], 0.0
    for t in range(int(len(powers_w) * step_s) + 1):
        readings += [Reading(t * 10**9, 0, energy_j), Reading(t * 10**9, 1, ahead_s(t))]
        energy_j += powers_w[min(int(t // step_s), len(powers_w) - 1)]
    return Trace.of([counter, clock], readings)


def series_of(values, step_s=100.0, start_s=UNIX_S):
    edges = tuple(start_s + i * step_s for i in range(len(values) + 1))
    return IntensitySeries(edges, tuple(values), "grid.csv")


def test_intensity_is_weighted_by_the_energy_of_its_time():
    trace, series = trace_of([100.0, 300.0]), series_of([100.0, 500.0])
    met = energy_weighted_intensity(trace, series, UNIX_S, UNIX_S + 200)
    assert met == pytest.approx((100 * 100 + 300 * 500) / 400)
    assert series.mean(UNIX_S, UNIX_S + 200) == pytest.approx(300.0)


def test_power_may_change_within_a_step_of_the_series():
    trace = trace_of([50.0, 350.0, 100.0, 100.0], step_s=50.0)
    series = series_of([100.0, 500.0])
    met = energy_weighted_intensity(trace, series, UNIX_S, UNIX_S + 200)
    assert met == pytest.approx((400 * 100 + 200 * 500) / 600)


def test_a_wall_clock_that_was_set_is_followed():
    # After 100 s of work the clock jumps an hour: the second half is in the series' second step.
    trace = trace_of([100.0, 300.0], ahead_s=lambda t: UNIX_S + (3600.0 if t >= 100 else 0.0))
    series = series_of([100.0, 500.0], step_s=2000.0)
    met = energy_weighted_intensity(trace, series, UNIX_S, UNIX_S + 3800.0)
    assert met == pytest.approx((100 * 100 + 300 * 500) / 400, rel=0.01)


def test_without_a_wall_clock_the_weighted_intensity_is_unknown():
    trace = trace_of([100.0])
    bare = Trace(trace.channels[:1], trace.series[:1])
    assert math.isnan(energy_weighted_intensity(bare, series_of([1.0, 2.0]), UNIX_S, UNIX_S + 100))


@given(
    st.lists(st.floats(0, 1000), min_size=1, max_size=20),
    st.integers(0, 1000),
    st.integers(0, 1000),
)
def test_steps_cover_a_time_once_and_the_mean_is_between_them(values, first, second):
    series = series_of(values, start_s=0.0)
    start, stop = sorted((first * 0.1 * len(values), second * 0.1 * len(values)))
    steps = series.steps(start, stop)
    assert math.fsum(b - a for a, b, _ in steps) == pytest.approx(stop - start, abs=1e-9)
    assert all(a <= b for a, b, _ in steps)
    assert not series.missing(start, stop)
    seen = [value for _, _, value in steps]
    assert min(seen) - 1e-9 <= series.mean(start, stop) <= max(seen) + 1e-9


def test_a_time_beyond_the_series_is_not_covered():
    series = series_of([100.0, 200.0], start_s=0.0)
    assert "1970-01-01 00:00:00 UTC to 1970-01-01 00:03:20 UTC" in series.missing(150.0, 201.0)
    assert series.missing(-1.0, 10.0)
    assert "the time of this energy is unknown" in series.missing(math.nan, 1.0)
    assert "no value" in series_of([100.0, math.nan], start_s=0.0).missing(50.0, 150.0)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_times_have_a_time_zone_or_are_utc(tmp_path):
    series = read_series(
        write(
            tmp_path / "grid.csv",
            "region,time,g_per_kwh\n"
            "DE,2026-11-01T00:00Z,300\n"
            "DE,2026-11-01T02:00+01:00,\n"
            "DE,2026-11-01 02:00,120.5\n",
        )
    )
    start = series.edge_unix_s[0]
    assert [edge - start for edge in series.edge_unix_s] == [0.0, 3600.0, 7200.0, 10800.0]
    assert series.g_per_kwh[0] == 300.0
    assert math.isnan(series.g_per_kwh[1])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("when,g_per_kwh\n2026-11-01,1\n", "no column of times"),
        ("time,g_per_kwh\nyesterday,1\n", "line 2"),
        ("time,g_per_kwh\n2026-11-01T01:00,1\n2026-11-01T01:00,2\n", "line 3"),
        ("time,g_per_kwh\n2026-11-01T01:00,-3\n", "0 or more"),
        ("time,g_per_kwh\n2026-11-01T01:00,inf\n", "0 or more"),
        ("time,g_per_kwh\n2026-11-01T01:00,3\n", "at least two"),
        ("", "no column"),
        ("time,g_per_kwh\n2026-11-01,1e300\n", "0 or more"),
        ("time,g_per_kwh\n2026-11-01,1\n" + "x" * 200_000 + ",2\n", "field larger than"),
        ("time,g_per_kwh\n2026-11-01,3\n9999-12-31,4\n", "line 3: 9999-12-31 cannot be the time"),
        ("time,g_per_kwh\n0001-01-01T00:00+14:00,3\n2026-11-01,4\n", "between 1970 and 2200"),
        ("point_time,value\n2026-11-01,900\n2026-11-02,901\n", "no column of intensities"),
        ("MTU,Area,Solar [MW]\n01.11.2026,DE,5\n", "it has MTU, Area, Solar [MW]"),
        ("time,carbon intensity,carbon_intensity\n2026-11-01,3,4\n", "several intensities"),
        ("time,zone,g_per_kwh\n2026-11-01,DE,3\n2026-11-01,FR,4\n", "several zones, DE and FR"),
    ],
)
def test_a_file_that_is_not_a_series_is_refused(tmp_path, text, hint):
    with pytest.raises(UserError) as error:
        read_series(write(tmp_path / "grid.csv", text))
    assert hint in str(error.value)


ELECTRICITY_MAPS = """\
Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),\
Carbon intensity gCO₂eq/kWh (Life cycle),Carbon-free energy percentage (CFE%),Data source
2026-11-28 00:00:00,Germany,Germany,DE,280.5,330.5,55.1,example
2026-11-28 01:00:00,Germany,Germany,DE,285.5,335.5,55.1,example
"""
OLDER_MAPS = """\
Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),\
Carbon Intensity gCO₂eq/kWh (LCA),Low Carbon Percentage
2023-01-01 00:00:00,Germany,Germany,DE,95.2,134.7,76.5
2023-01-01 01:00:00,Germany,Germany,DE,94.0,133.0,76.9
"""
GREAT_BRITAIN = """\
from,to,forecast,actual
2026-11-28T00:00Z,2026-11-28T00:30Z,210,205
2026-11-28T00:30Z,2026-11-28T01:00Z,212,
2026-11-28T01:30Z,2026-11-28T02:00Z,214,216
"""
GREAT_BRITAIN_WEBSITE = """\
Datetime (UTC),Actual Carbon Intensity (gCO2/kWh),Forecast Carbon Intensity (gCO2/kWh),Index
2026-11-28T00:00,205,210,moderate
2026-11-28T00:30,206,212,moderate
"""
WATTTIME = """\
timestamp,MOER,MOER version,frequency
2026-11-28T00:05:00+00:00,1000,3.2,300
2026-11-28T00:00:00+00:00,900,3.2,300
"""
GERMAN_SPREADSHEET = (
    "Datetime (UTC);Carbon intensity (gCO2eq/kWh)\n2026-11-28;300,5\n2026-11-29;310\n"
)


@pytest.mark.parametrize(
    ("text", "values", "step_s", "kind"),
    [
        (ELECTRICITY_MAPS, [330.5, 335.5], 3600, " (life cycle)"),
        (ELECTRICITY_MAPS.replace("Life cycle", "?"), [280.5, 285.5], 3600, " (direct emissions)"),
        (OLDER_MAPS, [134.7, 133.0], 3600, " (life cycle)"),
        (
            GREAT_BRITAIN,
            [205.0, 212.0, math.nan, 216.0],
            1800,
            " (actual, forecast for 1 of 3 steps)",
        ),
        (GREAT_BRITAIN_WEBSITE, [205.0, 206.0], 1800, " (actual)"),
        (WATTTIME, [900 * 0.45359237, 453.59237], 300, " (marginal)"),
        (GERMAN_SPREADSHEET, [300.5, 310.0], 86400, ""),
    ],
    ids=["maps", "maps direct", "maps LCA", "GB API", "GB website", "WattTime", "semicolons"],
)
def test_exports_are_read_as_they_are(tmp_path, text, values, step_s, kind):
    """Layouts as their publishers document them; the values are invented."""
    series = read_series(write(tmp_path / "grid.csv", text))
    assert series.g_per_kwh == pytest.approx(values, nan_ok=True)
    assert series.name == f"grid.csv{kind}"
    first, *_, last = series.edge_unix_s
    assert last - first == step_s * len(values)
    assert str(series).startswith(f"grid.csv{kind}, {len(values)} steps, 20")
