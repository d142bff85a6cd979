"""Formats of times in logs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from joulelab.errors import UserError
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import read_logs
from joulelab.logs.span_energies import read_spans
from joulelab.logs.timestamps import clock_times, dates, day_first, is_clock, is_date

START = datetime(2026, 3, 14, 12, 0, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
LAST_SUMMER_HOUR = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def logged(tmp_path, stamps, **columns):
    path = tmp_path / "log.csv"
    path.write_text("timestamp,power_w\n" + "".join(f"{stamp},100\n" for stamp in stamps))
    log = read_logs([path], LogOptions(**columns))
    return log.origin_s + log.trace.series[0].t_ns * 1e-9, log.notes


@pytest.mark.parametrize(
    "pattern",
    [
        "%Y/%m/%d %H:%M:%S.%f",
        "%Y-%m-%dT%H:%M:%S+00:00",
        "%d.%m.%Y %H:%M:%S",
        "%d.%m.%Y %H:%M:%S,%f",
        "%d/%m/%Y %H:%M:%S.%f",
        "%m/%d/%Y %I:%M:%S %p",
        "%a %b %d %H:%M:%S %Y",
        "%a %b %d %H:%M:%S UTC %Y",
        "%a %d %b %Y %I:%M:%S %p UTC",
        "%a, %d %b %Y %H:%M:%S +0000",
        "%Y%m%dT%H%M%SZ",
        "%Y%m%d%H%M%S",
        "%Y%m%d %H:%M:%S",
        "%Y%m%d-%H%M%S",
    ],
)
def test_formats_of_dates(tmp_path, pattern):
    when = [START + timedelta(seconds=i) for i in range(30)]
    t_s, _ = logged(tmp_path, [f'"{one.strftime(pattern)}"' for one in when], timezone="UTC")
    assert t_s.tolist() == [one.timestamp() for one in when]


def test_order_of_day_and_month_is_never_guessed():
    assert day_first(["31/01/2026 12:00:00"], Path("log.csv"))
    assert not day_first(["01/31/2026 12:00:00"], Path("log.csv"))
    assert not day_first(["03/04/2026 12:00:00 PM"], Path("log.csv"))
    assert not day_first(["2026/03/04 12:00:00"], Path("log.csv"))
    with pytest.raises(UserError, match="may begin with the day or with the month"):
        day_first(["03/04/2026 12:00:00"], Path("log.csv"))


@pytest.mark.parametrize("cell", ["", "12.5", "1.7e9", "[N/A]", "12:00", "P0"])
def test_cells_that_are_not_times(cell):
    assert not is_date(cell)
    assert not is_clock(cell)


@pytest.mark.parametrize(
    ("unit", "start", "period"),
    [
        ("us", 1_987_654_321, 1e6),
        ("us", 1_987_654_321, 2e4),
        ("ms", 1.3e9, 1e3),
        ("ms", 1.3e9, 100),
    ],
)
def test_times_since_a_start_are_not_taken_for_times_since_1970(tmp_path, unit, start, period):
    stamps = [f"{start + period * i:.0f}" for i in range(30)]
    with pytest.raises(UserError, match=r"unit of times .* is unknown: .* state it with --time-u"):
        logged(tmp_path, stamps)
    t_s, _ = logged(tmp_path, stamps, time_unit=unit)
    assert np.ptp(t_s) == pytest.approx(29 * period * {"ms": 1e-3, "us": 1e-6}[unit])


@pytest.mark.parametrize("period_s", [0.1, 1, 20, 60, 300, 3600, 86400])
def test_usual_periods_are_of_times_since_1970(tmp_path, period_s):
    t_s, _ = logged(tmp_path, [f"{START.timestamp() + period_s * i:.1f}" for i in range(30)])
    assert np.ptp(t_s) == pytest.approx(29 * period_s)


def test_hours_are_not_taken_for_seconds(tmp_path):
    with pytest.raises(UserError, match="the unit of times in column 'timestamp' is unknown"):
        logged(tmp_path, [f"{i / 3600:.8f}" for i in range(30)])


def test_hours_minutes_and_seconds_in_one_number_are_not_seconds(tmp_path):
    stamps = [(START + timedelta(seconds=i)).strftime("%H%M%S") for i in range(90)]
    with pytest.raises(UserError, match="hours, minutes and seconds in one number"):
        logged(tmp_path, stamps)


def test_a_column_of_epochs_is_no_time(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("time,epoch,power_w\n" + "".join(f"{i},{i // 9},100\n" for i in range(30)))
    log = read_logs([path])
    assert log.stop_s - log.start_s == 29


def test_clock_times_continue_after_midnight(tmp_path):
    t_s, notes = logged(tmp_path, ["23:59:58", "23:59:59.5", '"00:00:00,5"', "00:00:01"])
    assert np.diff(t_s).tolist() == [1.5, 1.0, 0.5]
    assert "log.csv: 'timestamp' is read as hours, minutes and seconds" in notes


@pytest.mark.parametrize("zone", ["-01:00", "-0100", "Z", "+01"])
def test_dates_with_and_without_a_zone_in_one_column(zone):
    convert = dates(ZoneInfo("UTC"), False)
    with_zone, without = convert([f"2026-03-14 12:00:00{zone}", "2026-03-14 12:00:00"])
    offset_s = {"Z": 0, "+01": -3600}.get(zone, 3600)
    assert without == START.timestamp()
    assert with_zone == START.timestamp() + offset_s


@pytest.mark.parametrize("cell", ["2026-03-14T12:00:020", "2026-03-14 12:00:12:00:20"])
def test_what_follows_a_time_is_no_zone(cell):
    first_s, second_s = dates(UTC)(["2026-03-14T12:00:00", cell])
    assert first_s == 1773489600
    assert np.isnan(second_s)


def test_unreadable_clock_times_are_nan():
    assert np.isnan(clock_times()(["x", "00:00:01"])[0])


def berlin_times(step_s, count, pattern="%Y/%m/%d %H:%M:%S"):
    when = [LAST_SUMMER_HOUR + timedelta(seconds=i * step_s) for i in range(count)]
    return [one.astimezone(BERLIN).strftime(pattern) for one in when], when


@pytest.mark.parametrize(
    "pattern", ["%Y/%m/%d %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%Y-%m-%d %I:%M:%S %p"]
)
@pytest.mark.parametrize("step_s", [1.0, 10.0])
def test_repeated_hour_when_clocks_are_set_back(tmp_path, step_s, pattern):
    local, when = berlin_times(step_s, round(7200 / step_s), pattern)
    t_s, notes = logged(tmp_path, local, timezone="Europe/Berlin")
    assert t_s.tolist() == [float(int(one.timestamp())) for one in when]
    assert notes == ()


def test_repeated_hour_across_chunks():
    local, when = berlin_times(10.0, 720)
    convert = dates(BERLIN)
    parts = [convert(local[i : i + 50]) for i in range(0, 720, 50)]
    assert np.concatenate(parts).tolist() == [one.timestamp() for one in when]


def test_spans_with_dates_and_clock_times(tmp_path):
    path = tmp_path / "spans.csv"
    path.write_text("name,start_s,stop_s\na,31/01/2026 12:00:00,31.01.2026 12:00:05\n")
    [span] = read_spans(path, "UTC")
    assert span.stop_s - span.start_s == 5.0
    path.write_text("name,start_s,stop_s\na,00:01:00,00:01:05.5\nb,7,00:00:08\n")
    assert [(one.start_s, one.stop_s) for one in read_spans(path)] == [(60.0, 65.5), (7.0, 8.0)]


def test_fractions_of_any_length_are_read():
    cells = ["2026-01-31 12:00:21.0999999999999999999999990", "2026-01-31 12:00:22.5"]
    first, second = dates(UTC)(cells).tolist()
    assert second - first == pytest.approx(1.4, abs=1e-5)
