"""Logs in the form of each tool: values are invented, and nearly constant in each file.

So the mean power of any part of a file is known: a damaged copy has that power, or is an error.
"""

import gzip
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.cli.import_log import command
from joulelab.errors import UserError
from joulelab.logs.columns import LogOptions
from joulelab.logs.formats import FORMATS, find_format
from joulelab.logs.formats.log_text import LogText, as_iso, to_seconds
from joulelab.logs.power_log import read_logs
from joulelab.logs.span_energies import ImportedSpan, energy_rows

DATA = Path(__file__).parent / "data" / "formats"

# File: components and their mean powers in W, seconds, and the interval of logs without times.
TWO_GPUS = {"gpu:0": 100.0, "gpu:1": 200.0}
TWO_PACKAGES = {"cpu:0": 60.0, "cpu:1": 40.0, "dram:0": 4.0, "dram:1": 6.0}
SAMPLES = {
    "amd_smi.json": (TWO_GPUS, 20.0, None),
    "amd_smi.txt": (TWO_GPUS, 20.0, None),
    "amd_smi_monitor.txt": (TWO_GPUS, 20.0, None),
    "dcgmi_dmon.txt": (TWO_GPUS, 20.0, 1.0),
    "dcgmi_dmon_prefixed.txt": (TWO_GPUS, 20.0, None),
    "energibridge.csv": ({"cpu:0": 40.0, "dram:0": 3.0}, 20.0, None),
    "gpustat.txt": (TWO_GPUS, 20.0, None),
    "intel_gpu_top.json": ({"cpu:0": 25.0}, 20.0, None),
    "ipmi_dcmi.txt": ({"node": 400.0}, 20.0, None),
    "ipmi_sdr.csv": ({"psu:1": 210.0, "psu:2": 190.0}, 20.0, None),
    "ipmi_sensor.txt": ({"node": 400.0}, 20.0, None),
    "jtop.csv": ({"node": 12.0}, 20.0, None),
    "macmon.json": ({"ane:0": 1.0, "cpu:0": 6.0, "dram:0": 2.0, "gpu:0": 3.0}, 20.0, None),
    "mlperf_spl.txt": ({"node": 900.0}, 20.0, None),
    "mlperf_training.txt": ({"node": 900.0}, 20.0, None),
    "nvidia_smi_csv.csv": (TWO_GPUS, 20.0, 1.0),
    "nvidia_smi_csv_loop.txt": (TWO_GPUS, 20.0, None),
    "nvidia_smi_dmon.txt": (TWO_GPUS, 20.0, 1.0),
    "nvidia_smi_dmon_dates.txt": (TWO_GPUS, 20.0, None),
    "nvidia_smi_dmon_times.txt": (TWO_GPUS, 20.0, None),
    "nvidia_smi_noheader.txt": (TWO_GPUS, 20.0, None),
    "nvidia_smi_query.txt": (TWO_GPUS, 20.0, None),
    "nvidia_smi_query.xml": (TWO_GPUS, 20.0, None),
    "nvidia_smi_table.txt": (TWO_GPUS, 20.0, None),
    "perf.json": ({"cpu:0": 100.0, "dram:0": 10.0}, 20.0, None),
    "perf_total.txt": ({"cpu:0": 100.0, "dram:0": 10.0}, 12.5, None),
    "perf.txt": ({"cpu:0": 100.0, "dram:0": 10.0}, 20.0, None),
    "perf_per_socket.csv": (TWO_PACKAGES, 20.0, None),
    "perf_semicolon.csv": (TWO_PACKAGES, 20.0, None),
    "power_gadget.csv": ({"cpu:0": 25.0, "dram:0": 3.0}, 20.0, None),
    "powerjoular.csv": ({"cpu:0": 50.0, "gpu:0": 100.0}, 20.0, None),
    "powermetrics.plist": ({"ane:0": 1.0, "cpu:0": 6.0, "gpu:0": 3.0}, 20.0, None),
    "powermetrics.txt": ({"ane:0": 1.0, "cpu:0": 6.0, "gpu:0": 3.0}, 20.0, None),
    "powerstat.txt": ({"cpu:0": 25.0}, 19.0, None),
    "prometheus_dcgm.txt": (TWO_GPUS, 20.0, None),
    "prometheus_node.txt": (TWO_PACKAGES, 20.0, None),
    "prometheus_range.json": (TWO_GPUS, 20.0, None),
    "rocm_smi.csv": (TWO_GPUS, 20.0, None),
    "rocm_smi.json": (TWO_GPUS, 20.0, None),
    "rocm_smi.txt": (TWO_GPUS, 20.0, None),
    "rocm_smi_table.txt": (TWO_GPUS, 20.0, None),
    "scaphandre.json": (TWO_PACKAGES, 19.0, None),
    "scaphandre.txt": ({"node": 110.0}, 40.0, 2.0),
    "shelly.json": ({"plug:0": 300.0}, 20.0, None),
    "shelly_minutes.csv": ({"plug:a": 300.0, "plug:b": 180.0}, 1200.0, None),
    "tasmota.json": ({"plug:0": 300.0}, 20.0, None),
    "tegrastats.txt": ({"node": 12.0}, 20.0, None),
    "tegrastats_agx.txt": (
        {"rail:VDDQ_VDD2_1V8AO": 1.0, "rail:VDD_CPU_CV": 7.0, "rail:VDD_GPU_SOC": 12.0,
            "rail:VIN_SYS_5V0": 5.0}, 20.0, None),
    "tegrastats_nano.txt": ({"node": 5.0}, 20.0, 1.0),
    "turbostat.txt": (TWO_PACKAGES, 19.019, None),
    "turbostat_joules.txt": ({"cpu:0": 100.0, "dram:0": 10.0}, 100.0, 5.0),
    "turbostat_once.txt": ({"cpu:0": 80.0, "dram:0": 8.0}, 12.5, None),
    "xpu_smi.csv": (TWO_GPUS, 20.0, None),
}  # fmt: skip
OTHERS = {"nvidia_smi_pmon.txt", "codecarbon.csv", "home_assistant.csv"}


def rows_of(path, interval_s=None, **options):
    log = read_logs([path], LogOptions(timezone="UTC", interval_s=interval_s, **options))
    runs = log.runs or (("whole log", log.start_s, log.stop_s),)
    return log, energy_rows(log, [ImportedSpan(*run) for run in runs])


def assert_powers_or_an_error(path, sample):
    powers, _, interval_s = sample
    try:
        _, [row] = rows_of(path, interval_s)
    except UserError:
        return
    if row["duration_s"] < 4 * (interval_s or 1.0):
        return  # Too little is left to tell.
    for name, part in row["components"].items():
        watts = part["gross_j"] / row["duration_s"]
        assert watts == pytest.approx(powers[name], rel=0.02), (name, row)


def test_every_sample_is_tested():
    assert {path.name for path in DATA.iterdir()} == SAMPLES.keys() | OTHERS


def test_every_format_has_a_sample():
    found = [find_format(path) for path in sorted(DATA.iterdir())]
    # The layout of PowerJoular's file for one process is that of the other with fewer columns.
    assert {one.tool for one in FORMATS} - {one.tool for one in found} == {
        "PowerJoular for one process"
    }


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_has_its_energy(name):
    powers, duration_s, interval_s = SAMPLES[name]
    _, [row] = rows_of(DATA / name, interval_s)
    assert row["duration_s"] == pytest.approx(duration_s, rel=1e-3)
    assert row["components"].keys() == powers.keys()
    for component, watts in powers.items():
        joules = row["components"][component]["gross_j"]
        assert joules == pytest.approx(watts * duration_s, rel=0.01)


@pytest.mark.parametrize("name", SAMPLES)
def test_copy_that_is_cut_short_is_right_or_an_error(tmp_path, name):
    data = (DATA / name).read_bytes()
    cuts = [*range(len(data) - 120, len(data), 17), len(data) // 2, len(data) // 3, 40]
    for cut in cuts:
        path = tmp_path / name
        path.write_bytes(data[:cut])
        assert_powers_or_an_error(path, SAMPLES[name])


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([b"", b"\n", b"0", b"#!x%", b"\xff\xfe?"]))
def test_damaged_copy_is_right_or_an_error(tmp_path_factory, name, permille, damage):
    data = (DATA / name).read_bytes()
    lines = data.splitlines(keepends=True)
    at = len(lines) * permille // 1001
    # A line that lost its middle, in a way that a reader cannot take for a value.
    line = lines[at]
    lines[at] = line[: len(line) // 3] + damage * 3 + b"\n" if damage != b"0" else b""
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(b"".join(lines))
    assert_powers_or_an_error(path, SAMPLES[name])


@pytest.mark.parametrize("name", [name for name in SAMPLES if SAMPLES[name][2]])
def test_log_without_times_needs_an_interval(name):
    with pytest.raises(UserError, match=r"has no times; state .* with --interval SECONDS"):
        rows_of(DATA / name)


def test_processes_are_refused():
    with pytest.raises(UserError, match="no power: nvidia-smi pmon only lists processes"):
        rows_of(DATA / "nvidia_smi_pmon.txt")


def test_finished_runs_have_their_own_energies():
    log, rows = rows_of(DATA / "codecarbon.csv")
    assert [row["name"] for row in rows] == ["lm 1", "lm 2"]
    assert [row["duration_s"] for row in rows] == [600, 300]
    assert [row["gross_j"] for row in rows] == pytest.approx([636 * 600, 636 * 300], rel=1e-6)
    assert rows[0]["components"].keys() == {"cpu:0", "gpu", "dram:0"}
    assert any("energy_consumed would count the same energy again" in note for note in log.notes)


def test_runs_at_the_same_time_are_an_error(tmp_path):
    text = (DATA / "codecarbon.csv").read_text()
    path = tmp_path / "emissions.csv"
    path.write_text(text.replace("T11:10:00", "T10:09:00"))
    with pytest.raises(UserError, match="intervals of 'cpu_energy' overlap"):
        rows_of(path)
    options = LogOptions(timezone="UTC")
    with pytest.raises(UserError, match="have runs at the same time"):
        read_logs([DATA / "codecarbon.csv", DATA / "codecarbon.csv"], options)


def test_power_holds_until_it_changes():
    _, [row] = rows_of(DATA / "home_assistant.csv")
    spans = [(0, 600, 36_000), (600.5, 900, 350 * 299.5), (960, 1560, 36_000)]
    log, _ = rows_of(DATA / "home_assistant.csv")
    named = [ImportedSpan("", log.start_s + a, log.start_s + b) for a, b, _ in spans]
    energies = [one["gross_j"] for one in energy_rows(log, named)]
    assert energies == pytest.approx([joules for *_, joules in spans], rel=1e-6)
    assert row["reason"] is not None  # The plug was not there for a minute.


def test_compressed_log_is_read(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(gzip.compress((DATA / "powermetrics.plist").read_bytes()))
    _, [row] = rows_of(path)
    assert row["gross_j"] == pytest.approx(200, rel=0.01)


def test_lost_gpu_does_not_shift_the_polls_of_others(tmp_path):
    # GPU 1 has no row in the polls 5 to 9.
    lines = [
        f"    {gpu} {100 + 100 * gpu:6d}     60\n"
        for poll in range(20)
        for gpu in (0, 1)
        if gpu == 0 or not 5 <= poll < 10
    ]
    path = tmp_path / "dmon.txt"
    path.write_text("# gpu    pwr  gtemp\n# Idx      W      C\n" + "".join(lines))
    log, _ = rows_of(path, 1.0)
    spans = [ImportedSpan("after", log.start_s + 11, log.start_s + 18)]
    [row] = energy_rows(log, spans)
    assert row["components"]["gpu:1"]["gross_j"] == pytest.approx(1400, rel=0.01)


def test_named_meter_is_read_instead_of_the_enclosing_one():
    _, [row] = rows_of(DATA / "tegrastats.txt", power_columns=["VDD_SOC"])
    assert row["gross_j"] == pytest.approx(2.0 * 20, rel=0.01)
    with pytest.raises(UserError, match="has no meter 'VDD'; choose from VDD_IN, "):
        rows_of(DATA / "tegrastats.txt", power_columns=["VDD"])


def test_gpu_is_selected_by_index_or_uuid():
    _, [by_index] = rows_of(DATA / "prometheus_dcgm.txt", gpu="1")
    _, [by_uuid] = rows_of(DATA / "prometheus_dcgm.txt", gpu="GPU-1")
    assert by_index["gross_j"] == by_uuid["gross_j"] == pytest.approx(4000, rel=0.01)
    with pytest.raises(UserError, match="no GPU '7'; choose from 0 and 1"):
        rows_of(DATA / "prometheus_dcgm.txt", gpu="7")


def test_gpus_of_several_hosts_are_added(tmp_path):
    text = (DATA / "prometheus_range.json").read_text()
    path = tmp_path / "range.json"
    path.write_text(text.replace('"gpu": "1"', '"gpu": "0"'))
    _, [row] = rows_of(path)
    assert row["components"].keys() == {"gpu:0@GPU-0", "gpu:0@GPU-1"}
    assert row["gross_j"] == pytest.approx(6000, rel=0.01)


def test_options_that_do_not_apply_are_named(tmp_path):
    log, _ = rows_of(DATA / "tegrastats.txt", interval_s=2.0, time_unit="ms")
    assert any("--interval is not used: the log has times" in note for note in log.notes)
    assert any("--time-unit is not used: it is a log of tegrastats" in note for note in log.notes)


@pytest.mark.parametrize(
    "text",
    [
        "# gpu of node 1\nt_s,power_w\n0,1\n1,1\n2,1\n",
        "Time,Delta,power_w\n0,1,1\n1,1,1\n2,1,1\n",
        "timestamp,power_w,total\n0,1,1\n1,1,1\n2,1,1\n",
        "when,power.draw [W]\n0,1\n1,1\n2,1\n",
    ],
)
def test_table_that_resembles_a_format_stays_a_table(tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_text(text)
    assert find_format(path) is None


def test_one_scrape_is_an_error(tmp_path):
    text = (DATA / "prometheus_dcgm.txt").read_text()
    path = tmp_path / "metrics"
    path.write_text(text[: text.index("2026-03-14T12:00:01")])
    with pytest.raises(UserError, match="DCGM_FI_DEV_POWER_USAGE has only one reading"):
        rows_of(path)


def test_two_recordings_in_one_file_are_an_error(tmp_path):
    text = (DATA / "perf_per_socket.csv").read_text()
    path = tmp_path / "perf.csv"
    path.write_text(text * 2)
    with pytest.raises(UserError, match="contains several recordings: its seconds start again"):
        rows_of(path)


def test_pause_of_a_tool_is_a_gap(tmp_path):
    # The same file an hour later: turbostat was started twice.
    text = (DATA / "turbostat.txt").read_text()
    later = text
    for i in range(30):
        later = later.replace(f"{1773489600 + i}.", f"{1773489600 + 3600 + i}.")
    path = tmp_path / "turbostat.txt"
    path.write_text(text + later)
    log, _ = rows_of(path)
    spans = [ImportedSpan("pause", log.start_s + 600, log.start_s + 1800)]
    [row] = energy_rows(log, spans)
    assert row["gross_j"] is None


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("Tue Mar 14 12:00:00 2026", "2026-03-14T12:00:00"),
        ("Sat Mar 14 12:00:00 UTC 2026", "2026-03-14T12:00:00Z"),
        ("Sat Mar 14 12:00:01 2026 +0100", "2026-03-14T12:00:01+0100"),
        ("Sat 14 Mar 2026 01:00:00 PM CET", "2026-03-14T13:00:00"),
        ("03/06/2025 07:40:35 UTC", "2025-03-06T07:40:35Z"),
        ("10/08/2026 12:02:12 AM EDT", "2026-10-08T00:02:12"),
        ("03-14-2026 17:40:36.530", "2026-03-14T17:40:36.530"),
        ("2026-03-14_12:00:00", "2026-03-14T12:00:00"),
    ],
)
def test_dates_of_tools(text, iso):
    assert as_iso(text) == iso


def test_dates_without_a_year_are_noted():
    log = LogText(Path("log"), LogOptions(timezone="UTC"))
    first, last = to_seconds(log, ["Mar 14 23:59:59", "Mar 15 00:00:01"])
    assert last - first == 2
    assert "dates have no year; assuming" in log.notes[0]


def test_epoch_times_in_all_units():
    log = LogText(Path("log"), LogOptions(timezone="UTC"))
    times = ["1773489600", "1773489600.5", "1773489600000", "1773489600000000"]
    assert to_seconds(log, times).tolist() == [1773489600.0, 1773489600.5, *[1773489600.0] * 2]


def test_command_reads_a_format(tmp_path):
    arguments = ["--power", str(DATA / "nvidia_smi_dmon.txt"), "--interval", "1"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0
    assert "6,000 J" in result.output
    assert "the log has no times; readings are taken 1 s apart" in result.output


@pytest.mark.parametrize("field", ["values", "metric", "result", "data"])
def test_a_damaged_answer_of_prometheus_is_refused(tmp_path, field):
    path = tmp_path / "range.json"
    text = (DATA / "prometheus_range.json").read_text()
    path.write_text(text.replace(f'"{field}":', f'"{field}": 5, "x":'))
    with pytest.raises(UserError):
        read_logs([path])


def test_powerstat_reads_no_sum_of_domains_that_contain_each_other(tmp_path):
    text = (DATA / "powerstat.txt").read_text()
    path = tmp_path / "log.txt"
    path.write_text(text.replace("pkg-0", "other"))
    _, [row] = rows_of(path)
    assert row["components"]["node"]["gross_j"] == pytest.approx(19 * 31, rel=0.01)
    path.write_text(text.replace("pkg-0   core   psys", ""))
    with pytest.raises(UserError, match="contain each other"):
        rows_of(path)


@pytest.mark.parametrize(
    ("row", "elapsed", "component"),
    [
        ("  85.09 Joules power/energy-pkg/  ( +-  0.83% )", "34.92 +- 0.0007", "cpu:0"),
        ("S0    1   85.09 Joules power/energy-pkg/", "34.92", "cpu:0"),
        ("S0-D0-C0   1   85.09 Joules power/energy-pkg/", "34.92", "cpu:0-D0"),
    ],
)
def test_totals_of_perf_of_repeated_runs_and_of_sockets(tmp_path, row, elapsed, component):
    path = tmp_path / "log.txt"
    head = " Performance counter stats for 'system wide' (10 runs):\n\n"
    other = "S0-D0-C1   0   <not counted> Joules power/energy-pkg/\n"
    path.write_text(f"{head}{row}\n{other}\n   {elapsed} seconds time elapsed\n\n")
    log, [result] = rows_of(path)
    assert result["components"].keys() == {component}
    assert result["gross_j"] == pytest.approx(85.09)
    assert result["duration_s"] == pytest.approx(34.92)
    assert any("means of several runs" in note for note in log.notes) == ("+-" in elapsed)
