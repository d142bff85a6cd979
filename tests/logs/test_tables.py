"""Tables as other tools and users write them, mostly from public bug reports."""

import gzip
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from joulelab.errors import UserError
from joulelab.logs.columns import LogOptions
from joulelab.logs.power_log import read_logs
from joulelab.logs.span_energies import ImportedSpan, energy_rows
from joulelab.logs.text_files import LONGEST_LINE


def read(tmp_path, text, **options):
    path = tmp_path / "log.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_logs([path], LogOptions(**{"timezone": "UTC", **options}))


def energy(log, start_s=None, stop_s=None):
    """Return energy in J and its reason, by default of the whole log."""
    start_s = log.start_s + (0 if start_s is None else start_s)
    stop_s = log.stop_s if stop_s is None else log.start_s + stop_s
    [row] = energy_rows(log, [ImportedSpan("span", start_s, stop_s)])
    return row["gross_j"], row["reason"]


def refuses(tmp_path, text, words, **options):
    with pytest.raises(UserError) as error:
        energy(read(tmp_path, text, **options))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def stamp(second, ms=120):
    return f"2026/03/14 09:{30 + second // 60}:{second % 60:02d}.{ms:03d}"


def polls(row, count=61):
    return "".join(row(second) for second in range(count))


def smi(second, gpu, level_w, apart_ms=0):
    power_w = level_w + (2 if second % 2 else -2)
    return f"{stamp(second, 120 + apart_ms * gpu)}, {power_w}.00 W, {90 + gpu} %\n"


# Devices.


@pytest.mark.parametrize("apart_ms", [0, 2, 30])
def test_gpus_without_a_column_are_distinguished_by_their_order(tmp_path, apart_ms):
    text = "timestamp, power.draw [W], utilization.gpu [%]\n" + polls(
        lambda second: "".join(smi(second, i, 100 + 100 * i, apart_ms) for i in range(4))
    )
    log = read(tmp_path, text)
    assert [one.component for one in log.trace.channels] == [f"gpu:{i}" for i in range(4)]
    assert energy(log)[0] == pytest.approx(60_000, rel=0.01)
    assert any("4 rows per poll" in note and "their order" in note for note in log.notes)
    # A poll with a row too few may be of any of them.
    lines = text.splitlines(keepends=True)
    refuses(tmp_path, "".join(lines[:101] + lines[102:]), "--device-column")


def test_gpus_that_are_read_slowly_are_not_one(tmp_path):
    def rows(second):
        return "".join(f"{second + 0.125 * i:.3f},{100 + 50 * i}\n" for i in range(8))

    refuses(tmp_path, "t_s,power_w\n" + polls(rows), "as if 8 devices took turns")
    log = read(tmp_path, "t_s,power_w\n" + polls(rows), devices=8)
    assert energy(log, 2, 58)[0] == pytest.approx(56 * 8 * 275, rel=0.01)


@pytest.mark.parametrize("column", ["device", "card", "socket", "hostname", "sensor", "board"])
def test_a_column_whose_values_take_turns_names_devices(tmp_path, column):
    rows = polls(lambda i: f"{i},{column} a,100.0\n{i},{column} b,{200 + i % 3}.0\n")
    log = read(tmp_path, f"t_s,{column},power_w\n" + rows)
    assert len(log.trace.channels) == 2
    assert energy(log)[0] == pytest.approx(60 * 301, rel=0.01)


@pytest.mark.parametrize("column", ["device", "gpu", "phase", "load"])
def test_a_column_of_loads_is_no_device(tmp_path, column):
    rows = polls(lambda i: f"{i},{'gpu 0' if i // 10 % 2 else 'gpu 1'},{100 + i % 3}.0\n")
    log = read(tmp_path, f"t_s,{column},power_w\n" + rows)
    assert len(log.trace.channels) == 1
    assert energy(log)[0] == pytest.approx(60 * 101, rel=0.01)


def test_values_that_take_turns_from_row_to_row_may_be_loads(tmp_path):
    rows = polls(lambda i: f"{i},{'long' if i % 2 else 'short'},{100 + i % 3}.0\n")
    refuses(tmp_path, "t_s,load,power_w\n" + rows, "may distinguish devices, or what ran")
    log = read(tmp_path, "t_s,load,power_w\n" + rows, devices=1)
    assert energy(log)[0] == pytest.approx(60 * 101, rel=0.01)


def test_devices_of_several_hosts(tmp_path):
    def rows(i):
        return "".join(
            f"{i},node{host},{gpu},{100 + 100 * host + 10 * gpu}.0\n"
            for host in (0, 1)
            for gpu in (0, 1)
        )

    log = read(tmp_path, "t_s,hostname,gpu,power_w\n" + polls(rows))
    names = [one.component for one in log.trace.channels]
    assert names == ["node0:gpu:0", "node0:gpu:1", "node1:gpu:0", "node1:gpu:1"]
    assert energy(log)[0] == pytest.approx(60 * 620, rel=0.01)


def test_a_device_that_contains_the_others_is_an_error(tmp_path):
    rows = polls(lambda i: f"{i},package-0,50.0\n{i},core,30.0\n{i},dram,5.0\n")
    refuses(tmp_path, "t_s,domain,power_w\n" + rows, "'package-0' may contain the others")
    log = read(tmp_path, "t_s,domain,power_w\n" + rows, gpu="package-0")
    assert energy(log)[0] == pytest.approx(3000, rel=0.01)


@pytest.mark.parametrize("header", ["timestamp, index, power.draw [W], temperature.gpu\n", ""])
def test_a_lost_gpu_is_covered_until_it_was_lost(tmp_path, header):
    def rows(i):
        first = f"{stamp(i)}, 0, {298 + 4 * (i % 2)}.00 W, 61\n"
        if i < 31:
            return first + f"{stamp(i)}, 1, {198 + 4 * (i % 2)}.00 W, 55\n"
        lost = "Unable to determine the device handle for GPU0000:41:00.0: GPU is lost.\n"
        return first + lost + "[Unknown Error], [Unknown Error], [Unknown Error], [N/A]\n"

    log = read(tmp_path, header + polls(rows))
    assert [one.component for one in log.trace.channels] == ["gpu:0", "gpu:1"]
    assert energy(log, 5, 25)[0] == pytest.approx(10_000, rel=0.01)
    after_j, reason = energy(log, 35, 55)
    assert after_j == pytest.approx(6000, rel=0.01)
    assert "gpu:1" in reason
    assert any("skipped 30 lines of text ('Unable to determine" in note for note in log.notes)


def test_rows_that_name_no_device_are_no_device(tmp_path):
    rows = polls(lambda i: f"{i},0,300.0 W\n{i},{'1' if i < 30 else '[Unknown Error]'},200.0 W\n")
    log = read(tmp_path, "t_s,index,power.draw [W]\n" + rows)
    assert [one.component for one in log.trace.channels] == ["gpu:0", "gpu:1"]
    assert any("skipped 31 lines that name no device" in note for note in log.notes)


# The shape of rows.


def test_dates_with_a_decimal_comma_do_not_shift_columns(tmp_path):
    rows = polls(
        lambda i: f"2026-03-14T12:{i // 60:02d}:{i % 60:02d},000412345+01:00,97, 55, 3244, 250.00\n"
    )
    text = "timestamp,utilization.gpu,utilization.memory,memory.used,power.draw\n" + rows
    assert energy(read(tmp_path, text))[0] == pytest.approx(15_000, rel=0.01)


def test_names_with_a_comma_are_joined_where_only_one_way_is_possible(tmp_path):
    rows = polls(lambda i: f"{i}.0,Board, rev 2a,{250 + i % 3} W,97 %\n")
    log = read(tmp_path, "t_s,name,power.draw [W],utilization.gpu [%]\n" + rows)
    assert energy(log)[0] == pytest.approx(60 * 251, rel=0.01)
    rows = polls(lambda i: f"{i}.0,250,{i % 10},97\n")
    refuses(tmp_path, "t_s,power_w,load\n" + rows, "a row has 4 cells, the header 3: the row is")


def test_what_precedes_the_header_is_skipped(tmp_path):
    notice = "'CTRL' + 'C' to stop watching output:\n"
    rows = polls(lambda i: f"{i},0,{1e6 + 240 * i}\n\n")
    log = read(tmp_path, f"{notice}timestamp_s,gpu,total_energy_consumption_j\n{rows}")
    assert energy(log)[0] == pytest.approx(14_400, rel=0.001)
    assert any("skipped 1 line before the header" in note for note in log.notes)


def test_units_below_the_names(tmp_path):
    rows = polls(lambda i: f"{i * 1000},{250_000 + i}\n")
    assert energy(read(tmp_path, f"time,power\nms,mW\n{rows}"))[0] == pytest.approx(
        15_001, rel=0.01
    )
    with pytest.raises(UserError, match="another unit below"):
        read(tmp_path, f"time,power [W]\nms,mW\n{rows}")


def test_a_header_behind_a_comment_sign(tmp_path):
    log = read(tmp_path, "# t_s,power_w\n" + polls(lambda i: f"{i},{100 + i % 3}.5\n"))
    assert energy(log)[0] == pytest.approx(60 * 101.5, rel=0.01)


def test_short_rows_are_counted_and_refused_if_they_are_many(tmp_path):
    text = "t_s,load,power_w\n" + polls(lambda i: f"{i},a,100.0\n" if i % 30 else f"{i},100.0\n")
    assert any("skipped 3 lines with too few" in note for note in read(tmp_path, text).notes)
    text = "t_s,load,power_w\n" + polls(lambda i: f"{i},a,100.0\n" if i % 3 else f"{i},100.0\n")
    refuses(
        tmp_path, text, "21 rows of 61 have fewer cells than the header: the first is '0,100.0'"
    )


def test_columns_that_change_within_a_file(tmp_path):
    text = "t_s,power_w,temp\n" + polls(lambda i: f"{i},100.0,50\n")
    text += "t_s,temp,power_w\n" + polls(lambda i: f"{100 + i},50,100.0\n")
    refuses(tmp_path, text, "the columns change at 't_s, temp, power_w'")


# What values are.


@pytest.mark.parametrize("start_j", [45.01, 445.01])
def test_energy_per_interval_is_never_taken_for_a_counter(tmp_path, start_j):
    text = "time_s,energy_pkg_j\n" + polls(lambda i: f"{i},{start_j + 0.01 * i:.2f}\n", 31)
    refuses(tmp_path, text, "may be a counter or energy per interval")
    true_j = sum(start_j + 0.01 * i for i in range(1, 31))
    log = read(tmp_path, text, energy_kind="interval")
    assert energy(log)[0] == pytest.approx(true_j, rel=1e-6)
    renamed = text.replace("energy_pkg_j", "energy per interval [J]")
    assert energy(read(tmp_path, renamed))[0] == pytest.approx(true_j, rel=1e-6)


def test_energy_that_rises_and_falls_is_not_a_counter(tmp_path):
    text = "time_s,energy_pkg_j\n" + polls(lambda i: f"{i},{45 + 5 * (-1) ** i}\n")
    refuses(tmp_path, text, "state --energy-kind counter or --energy-kind interval")


@pytest.mark.parametrize("start_j", [0, 1000, 260_643])
def test_counters_are_recognised(tmp_path, start_j):
    text = "time_s,energy_j\n" + polls(lambda i: f"{i},{start_j + 40.0 * i + i % 2}\n")
    if start_j == 1000:
        text = text.replace("energy_j", "total_energy_j")
    assert energy(read(tmp_path, text))[0] == pytest.approx(2400, rel=0.001)


@pytest.mark.parametrize("factor", [1e3, 1e6, 1 / 3.6e6])
def test_energy_without_a_unit_is_joules_only_if_that_is_plausible(tmp_path, factor):
    text = "time_s,energy_counter\n" + polls(lambda i: f"{i},{(1e6 + 40.0 * i) * factor:.6f}\n")
    refuses(tmp_path, text, "'energy_counter' has no unit: in joules it would be")


def test_a_counter_that_falls_was_reset_or_wrapped(tmp_path):
    text = "time_s,energy_j\n" + polls(lambda i: f"{i},{(262_000 + 40 * i) % 262_143.33:.2f}\n")
    found_j, reason = energy(read(tmp_path, text))
    assert found_j == pytest.approx(2400, rel=0.001)
    assert "was reset, wrapped or has a gap" in reason


def test_values_that_are_written_when_they_change_hold(tmp_path):
    rng = np.random.default_rng(0)
    t_s = np.cumsum(rng.exponential(20, 80) + 1).round(1)
    value = np.where(np.arange(80) % 2, 60, rng.choice([300, 310, 320], 80))
    text = "t_s,power_w\n" + "".join(f"{t},{w}\n" for t, w in zip(t_s, value, strict=True))
    true_j = float(np.sum(np.diff(t_s) * value[:-1]))
    log = read(tmp_path, text)
    assert energy(log)[0] == pytest.approx(true_j, rel=1e-6)
    assert any("each holds until the next row" in note for note in log.notes)


def test_gaps_are_not_held_unless_the_user_says_so(tmp_path):
    t_s = [*range(100), *range(700, 800)]
    text = "t_s,power_w\n" + "".join(f"{t},{98 + 4 * (i % 2)}\n" for i, t in enumerate(t_s))
    log = read(tmp_path, text)
    assert energy(log)[0] is None
    assert any("give --hold" in note for note in log.notes)
    true_j = float(np.sum(np.diff(t_s) * (98 + 4 * (np.arange(199) % 2))))
    assert energy(read(tmp_path, text, hold=True))[0] == pytest.approx(true_j)


def test_one_row_per_run_is_an_error(tmp_path):
    rows = "".join(f"2026-03-14T1{i}:10:00,{600 + i},{2500 + i}.0\n" for i in range(3))
    refuses(tmp_path, "timestamp,duration,power_w\n" + rows, "each row is a run of its own")
    rows = polls(lambda i: f"{i},1.0,100.{i % 3}\n")
    assert energy(read(tmp_path, "t_s,duration,power_w\n" + rows))[0] == pytest.approx(
        6000, rel=0.01
    )


# Numbers.


def quoted(values):
    return "t_s,power_w\n" + "".join(f'{i},"{value}"\n' for i, value in enumerate(values))


def test_thousands_and_decimal_commas(tmp_path):
    for low, high, mean_w in (("900", "1,250", 1075), ("90,5", "125", 107.75)):
        log = read(tmp_path, quoted([low, high, low, high, high, low] * 3))
        assert energy(log)[0] == pytest.approx(17 * mean_w, rel=0.02)
    refuses(tmp_path, quoted(["1,250", "1,300"] * 5), "may have a decimal comma or thousands")
    refuses(tmp_path, quoted([*["90,5", "125"] * 5, "95.5"]), "'95.5' does not fit")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("-47.0", "10 negative values, down to -47.0 W"),
        ("1e30", "no sensor reports that"),
        ("inf", "no sensor reports that"),
    ],
)
def test_values_that_cannot_be(tmp_path, value, words):
    refuses(tmp_path, quoted(["100.0", value] * 10), words)


def test_the_offset_of_a_meter_is_noted(tmp_path):
    log = read(tmp_path, quoted(["100.0", "-0.1", "0.2", "0.1"] * 5))
    assert any("the meter's offset" in note for note in log.notes)


@pytest.mark.parametrize(
    ("name", "value"), [("power", 4200), ("power", 0.35), ("power_usage", 8000), ("power", 2e5)]
)
def test_power_without_a_unit_may_be_in_another(tmp_path, name, value):
    text = f"t_s,{name}\n" + polls(lambda i: f"{i},{value * (1 + i % 3 / 100)}\n")
    refuses(tmp_path, text, "state it with --power-unit")


@pytest.mark.parametrize("name", ["power [%]", "power_pct", "power factor", "apparent power (VA)"])
def test_what_is_called_power_but_is_not(tmp_path, name):
    refuses(
        tmp_path, f"t_s,{name}\n" + polls(lambda i: f"{i},9{i % 3}\n"), "no column may be power"
    )


def test_units_in_cells_show_which_columns_are_power(tmp_path):
    text = "t_s,GPU 0,note\n" + polls(lambda i: f"{i},{250 + i % 3} W,9 %\n")
    assert energy(read(tmp_path, text))[0] == pytest.approx(60 * 251, rel=0.01)


# Times.


def test_times_without_a_unit_are_seconds_only_if_that_is_plausible(tmp_path):
    for step in (100, 1000, 1e6, 1e9):
        text = "time,power_w\n" + polls(lambda i, step=step: f"{i * step:.0f},250.{i % 3}\n")
        refuses(tmp_path, text, "state it with --time-unit")
    for step in (1, 10, 60, 300):
        text = "time,power_w\n" + polls(lambda i, step=step: f"{i * step:.0f},250.{i % 3}\n")
        assert energy(read(tmp_path, text))[0] == pytest.approx(60 * step * 250.1, rel=0.01)


def test_a_clock_that_was_set_back_is_an_error(tmp_path):
    rows = polls(lambda i: f"{i},100.0\n") + polls(lambda i: f"{20 + i}.5,200.0\n")
    refuses(tmp_path, "t_s,power_w\n" + rows, "time goes back by 39.5 s, and rows overlap")
    rows = polls(lambda i: f"{i},{i}.0\n") + polls(lambda i: f"{20 + i},{20 + i}.0\n")
    log = read(tmp_path, "t_s,power_w\n" + rows)
    assert energy(log)[0] == pytest.approx(3200, rel=0.02)
    assert any("left out 41 repeated rows" in note for note in log.notes)


def test_half_days_and_commas_in_dates(tmp_path):
    text = "time,power_w\n" + polls(lambda i: f"11:59:{i:02d} AM,100.0\n", 60)
    text += polls(lambda i: f"12:00:{i:02d} PM,100.0\n", 60)
    assert energy(read(tmp_path, text))[0] == pytest.approx(11_900, rel=0.001)
    text = "time;power_w\n" + polls(lambda i: f"2026-03-14 12:00:{i:02d},500;100.0\n", 60)
    assert read(tmp_path, text).start_s == 1773489600.5


# Size.


def test_a_line_without_end_is_refused(tmp_path):
    text = "t_s,power_w\n" + "1" * (2 * LONGEST_LINE)
    refuses(tmp_path, gzip.compress(text.encode()), "line of more than 100,000 characters")
    refuses(tmp_path, 't_s,power_w\n1,"' + "1,2\n" * 40_000, "not a CSV file")


def test_a_gzip_bomb_is_refused_with_little_memory(tmp_path):
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"t_s,power_w\n")
        for _ in range(40):
            file.write(b"0" * (1 << 20))
    code = "import sys; from joulelab.cli.app import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "import", "--power", str(path)]

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "line of more than" in done.stderr
    assert Path(path).stat().st_size < 1 << 20


# Forms of public logs; the values are made up.


def test_a_column_that_is_the_sum_of_others_is_left_out(tmp_path):
    """As in the power logs of ciscoaiteam/hpc-mlperf-benchmarks."""
    rows = polls(lambda i: f"{i},{2400 + i % 3},{2600 - i % 2},{5000 + i % 3 - i % 2}\n")
    log = read(tmp_path, "t_s,n1_watts,n2_watts,total_watts\n" + rows)
    assert [one.component for one in log.trace.channels] == ["n1_watts", "n2_watts"]
    assert energy(log)[0] == pytest.approx(60 * 5000.5, rel=0.01)
    assert any("left out 'total_watts'" in note for note in log.notes)


def test_columns_of_which_none_is_the_sum_are_refused(tmp_path):
    rows = polls(lambda i: f"{i},{240 + i % 3},{260 - i % 2},{510 + i % 3 - i % 2}\n")
    refuses(tmp_path, "t_s,n1_watts,n2_watts,total_watts\n" + rows, "several columns")


@pytest.mark.parametrize("column", ["total_power_w", "node_power_w"])
def test_a_total_in_the_rows_of_each_device_is_no_power_of_each(tmp_path, column):
    """As in the power logs of 7x24-Hardware-Predictive-Scheduling."""
    rows = polls(lambda i: "".join(f"{i},{gpu},{300 + i % 7}\n" for gpu in range(3)))
    text = f"t_s,gpu_index,{column}\n{rows}61,0,305\n"
    refuses(tmp_path, text, "seems to be a total")
    assert energy(read(tmp_path, text, gpu="0"))[0] == pytest.approx(61 * 303, rel=0.01)


def test_names_of_devices_in_a_second_column_show_which_contains_others(tmp_path):
    """As LibreHardwareMonitor's sensors are logged with their names and identifiers."""
    sensors = (("CPU Package", "/cpu/0/power/0", 20), ("CPU Cores", "/cpu/0/power/1", 15))
    rows = polls(lambda i: "".join(f"{i},{name},{ident},{w}\n" for name, ident, w in sensors))
    text = "t_s,Sensor_Name,Sensor_ID,Watts\n" + rows
    refuses(tmp_path, text, "device 'CPU Package' may contain the others")
    log = read(tmp_path, text, device_column="Sensor_Name", gpu="CPU Package")
    assert energy(log)[0] == pytest.approx(60 * 20, rel=0.01)


def test_a_decimal_comma_after_a_time_is_not_taken_for_its_fraction(tmp_path):
    """As in the power logs of Gargant0373/EnergyTracker."""
    rows = polls(lambda i: f"2026-03-14 09:{30 + i // 60}:{i % 60:02d},{130 + i % 9},{i % 10}\n")
    refuses(tmp_path, "Timestamp,Power (W)\n" + rows, "unclear what '130' after the time")


def test_a_fraction_with_a_leading_zero_belongs_to_the_time(tmp_path):
    rows = polls(lambda i: f"2026-03-14 09:{30 + i // 60}:{i % 60:02d},{7 * i:03d},{130 + i % 2}\n")
    log = read(tmp_path, "Timestamp,Power (W)\n" + rows)
    assert energy(log)[0] == pytest.approx(60.42 * 130.5, rel=0.01)


def test_rows_that_were_written_twice_are_of_one_device(tmp_path):
    """As the first rows of the power logs of usrJKim/mig-sec."""
    rows = "4,44.1\n" * 2 + polls(lambda i: f"{4 + 100 * i},{44 + i % 2}.1\n")
    assert energy(read(tmp_path, "time_ms,power_w\n" + rows))[0] == pytest.approx(
        6 * 44.6, rel=0.01
    )


@pytest.mark.parametrize("mark", ["/", "-"])
@pytest.mark.parametrize("day_first", [True, False])
def test_dates_with_the_year_last(tmp_path, mark, day_first):
    """As in the logs of Adial314/nvidia-monitor."""
    days = f"31{mark}03" if day_first else f"03{mark}31"
    rows = polls(lambda i: f"{days}{mark}2026,12:{i // 60:02d}:{i % 60:02d},100\n")
    assert energy(read(tmp_path, "Date,Time,Power (W)\n" + rows))[0] == pytest.approx(6000)
    unclear = rows.replace("31", "04")
    refuses(tmp_path, "Date,Time,Power (W)\n" + unclear, "begin with the day or with the month")


@pytest.mark.parametrize("options", [{}, {"device_column": "GPUId"}])
def test_rows_of_several_fields_are_no_power(tmp_path, options):
    """As in the logs of 4179e1/dcgm_test."""
    fields = (("power_usage_instant", 70), ("throttle_reason_idle", 1))
    rows = "".join(
        f"{gpu},{1718783836000000 + 1000000 * i + 9000 * gpu},{name},{value + i % 3}\n"
        for gpu in (0, 1)
        for name, value in fields
        for i in range(30)
    )
    text = "GPUId,TimeStampUs,Field,Values\n" + rows
    words = "of several quantities, as column 'Field' says"
    refuses(tmp_path, text, words, power_columns=["Values"], **options)
    power = "".join(line for line in text.splitlines(keepends=True) if "throttle" not in line)
    log = read(tmp_path, power, power_columns=["Values"], **options)
    assert energy(log)[0] == pytest.approx(29 * 2 * 71, rel=0.02)
