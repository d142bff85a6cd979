import contextlib
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.energy.estimator import EnergyEstimator, energies_of
from joulelab.energy.signal import pace_of, updates
from joulelab.energy.signal.averaged_readings import is_averaged, sharpen
from joulelab.errors import UserError
from joulelab.logs.columns import LogOptions, parse_name
from joulelab.logs.csv_table import open_table
from joulelab.logs.power_log import read_logs, read_series
from joulelab.logs.span_energies import idle_spans, read_spans
from joulelab.recording.trace_spans import Window
from joulelab.sensors.sensor import Quantity

DATA = Path(__file__).parent / "data"
UTC = {"timezone": "UTC"}


def log_of(tmp_path, text, *, name="log.csv", encoding="utf-8", **choice):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_logs([path], LogOptions(**choice))


def series(log, channel=0):
    t_ns, value = log.trace.series[channel]
    return (t_ns * 1e-9 + log.origin_s).tolist(), value.tolist()


def rows(delimiter=",", end="\n", power="{:.1f}"):
    cells = ((f"{i / 10:.1f}", power.format(100 + i)) for i in range(20))
    return "".join(delimiter.join(row) + end for row in cells)


PLAIN_T = [i / 10 for i in range(20)]
PLAIN_W = [100.0 + i for i in range(20)]


# Logs of nvidia-smi.


def smi(index_and_power, header="timestamp, index, power.draw [W]", start_ms=0):
    lines = [header]
    for step, (index, power) in enumerate(index_and_power):
        ms = start_ms + step * 50
        lines.append(f"2024/01/31 12:34:{56 + ms // 1000:02d}.{ms % 1000:03d}, {index}, {power}")
    return "\n".join(lines) + "\n"


def test_nvidia_smi_with_units_and_two_gpus(tmp_path):
    text = smi([(i % 2, f"{100 + 100 * (i % 2)}.{i:02d} W") for i in range(40)])
    log = log_of(tmp_path, text, **UTC)
    assert [c.component for c in log.trace.channels] == ["gpu:0", "gpu:1"]
    assert {c.source for c in log.trace.channels} == {"nvml.power_usage"}
    assert all(c.polled and c.quantity is Quantity.POWER for c in log.trace.channels)
    t_s, value = series(log, 1)
    assert t_s[:2] == pytest.approx([1706704496.05, 1706704496.15], abs=1e-6)
    assert value[:2] == [200.01, 200.03]
    only = log_of(tmp_path, text, gpu="1", **UTC)
    assert [c.component for c in only.trace.channels] == ["gpu:1"]
    with pytest.raises(UserError, match="no GPU '7'; choose from 0 and 1"):
        log_of(tmp_path, text, gpu="7", **UTC)


def test_gpu_has_its_uuid_and_index(tmp_path):
    header = "timestamp, index, uuid, power.draw [W]"
    text = smi([(i % 2, f"GPU-{i % 2}f, {100 + i} W") for i in range(40)], header)
    (tmp_path / "smi.csv").write_text(text)
    found = read_series(tmp_path / "smi.csv", LogOptions(), [])
    assert [(one.channel.component, one.uuid) for one in found] == [
        ("gpu:0", "GPU-0f"),
        ("gpu:1", "GPU-1f"),
    ]


def test_nvidia_smi_unavailable_values_are_gaps_not_zero(tmp_path):
    powers = ["120.5 W", "[N/A]", "121.5 W", "[Not Supported]", "122.5 W", "[Unknown Error]"] * 4
    log = log_of(tmp_path, smi([(0, power) for power in powers]), **UTC)
    _, value = series(log)
    assert np.isnan(value[1::2]).all()
    assert value[::2] == [120.5, 121.5, 122.5] * 4
    assert any("no value in 12 lines" in note for note in log.notes)


def test_nvidia_smi_without_header_or_units(tmp_path):
    whole = smi([(0, f"{100 + i}.00 W") for i in range(20)])
    headless = whole.partition("\n")[2]
    _, value = series(log_of(tmp_path, headless, **UTC))
    assert value[:2] == [100.0, 101.0]
    bare = headless.replace(" W", "")
    with pytest.raises(UserError, match="no column may be power or energy"):
        log_of(tmp_path, bare, **UTC)
    _, value = series(log_of(tmp_path, bare, power_columns=["3"], **UTC))
    assert value[:2] == [100.0, 101.0]


@pytest.mark.parametrize(
    ("columns", "source", "window_s"),
    [
        ("power.draw [W], power.draw.average [W], power.draw.instant [W]",
            "nvml.power_instant", 0.025),
        ("power.draw [W], power.draw.average [W], power.limit [W]", "nvml.power_average", 1.0),
    ],
)  # fmt: skip
def test_nvidia_smi_power_fields_show_one_board(tmp_path, columns, source, window_s):
    values = [", ".join([f"{100 + i}.00 W"] * 3) for i in range(20)]
    log = log_of(tmp_path, smi([(0, v) for v in values], f"timestamp, index, {columns}"), **UTC)
    [channel] = log.trace.channels
    assert (channel.source, channel.window_s) == (source, window_s)


def test_dates_use_the_stated_time_zone(tmp_path):
    text = smi([(0, f"{100 + i} W") for i in range(10)])
    berlin = log_of(tmp_path, text, timezone="Europe/Berlin")
    assert berlin.start_s == pytest.approx(1706704496.0 - 3600)
    iso = "time,power_w\n" + "".join(f"2024-01-31T12:34:5{i}+01:00,10{i}\n" for i in range(6, 9))
    assert log_of(tmp_path, iso).start_s == pytest.approx(1706704496.0 - 3600)
    with pytest.raises(UserError, match="no time zone"):
        log_of(tmp_path, text, timezone="Nowhere/Atall")


# Any CSV.


@pytest.mark.parametrize(
    ("time", "factor"),
    [("t_s", 1), ("t_ms", 1e3), ("time_us", 1e6), ("timestamp_ns", 1e9), ("seconds", 1),
        ("Time (ms)", 1e3), ("elapsed [s]", 1), ("t_min", 1 / 60), ("Time [h]", 1 / 3600)],
)  # fmt: skip
@pytest.mark.parametrize(
    ("power", "scale", "energy"),
    [("power_w", 1, False), ("power_mw", 1e3, False), ("Watts", 1, False), ("W", 1, False),
        ("gpuPower [kW]", 1e-3, False), ("energy_j", 1, True), ("energy (mJ)", 1e3, True),
        ("total_energy_kwh", 1 / 3.6e6, True), ("power_mW", 1e3, False), ("powerkW", 1e-3, False),
        ("GPU0Power_uW", 1e6, False), ("RAMWatt", 1, False), ("energy_kWh", 1 / 3.6e6, True),
        ("total_energy_uJ", 1e6, True), ("meter_MWh", 1 / 3.6e9, True)],
)  # fmt: skip
def test_units_in_names(tmp_path, time, factor, power, scale, energy):
    lines = [f"{t * factor:.12f},{w * scale:.15f}" for t, w in zip(PLAIN_T, PLAIN_W, strict=True)]
    kind = {"energy_kind": "counter"} if energy else {}
    log = log_of(tmp_path, "\n".join([f"{time},{power}", *lines, ""]), **kind)
    assert (log.trace.channels[0].quantity is Quantity.ENERGY) is energy
    t_s, value = series(log)
    assert t_s == pytest.approx(PLAIN_T)
    assert value == pytest.approx(PLAIN_W, rel=1e-5)
    assert log.notes == ()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_unit_of_times_since_1970_is_recognised(tmp_path, unit):
    factor = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    lines = [f"{(1.7e9 + t) * factor:.6f},{100 + t}" for t in PLAIN_T]
    log = log_of(tmp_path, "\n".join(["time,power_w", *lines, ""]))
    assert log.start_s == pytest.approx(1.7e9, abs=1e-5)
    assert log.stop_s - log.start_s == pytest.approx(1.9, abs=1e-5)
    assert f"{unit} since 1970" in log.notes[0]


def variants():
    plain = "t_s,power_w\n" + rows()
    yield "plain", plain.encode(), ""
    yield "gzip", gzip.compress(plain.encode()), ""
    yield "UTF-16 from PowerShell", plain.replace("\n", "\r\n").encode("utf-16"), ""
    yield "byte order mark", plain.encode("utf-8-sig"), ""
    yield "CRLF", plain.replace("\n", "\r\n").encode(), ""
    yield "semicolon", ("t_s;power_w\n" + rows(";")).encode(), ""
    yield "decimal comma", ("t_s;power_w\n" + rows(";").replace(".", ",")).encode(), ""
    yield "tab", ("t_s\tpower_w\n" + rows("\t")).encode(), ""
    comments = plain.replace("1.0,110.0\n", "1.0,110.0\n# a pause\n")
    yield "comments", ("# by a logger\n" + comments).encode(), ""
    yield "blank lines", (plain + "\n \n").encode(), ""
    yield "no last end of line", plain.removesuffix("\n").encode(), ""
    yield "cut before the value", (plain + "2.0").encode(), "cut short"
    yield "cut within the value", (plain + "2.0,12").encode(), "cut short"
    quoted = plain.replace("power_w", '"power_w"').replace("100.0", '"100.0"')
    yield "quotes", quoted.encode(), ""
    yield "a column of text", plain.replace("\n", ",idle\n").encode(), ""
    lines = plain.splitlines(keepends=True)
    yield "unsorted", "".join([lines[0], *lines[11:], *lines[1:11]]).encode(), "sorted"
    yield (
        "header again",
        "".join([*lines[:9], lines[0], *lines[9:]]).encode(),
        "skipped 1 repeated header line",
    )


@pytest.mark.parametrize(("what", "data", "note"), [pytest.param(*v, id=v[0]) for v in variants()])
def test_file_variants_give_the_same_readings(tmp_path, what, data, note):
    log = log_of(tmp_path, data)
    assert series(log) == (pytest.approx(PLAIN_T), PLAIN_W)
    assert note in "; ".join(log.notes)
    assert bool(log.notes) is bool(note)


def test_rows_at_equal_times_are_of_one_device_or_several(tmp_path):
    text = "t_s,power_w\n" + "".join(f"{i // 2},60\n" for i in range(22))
    with pytest.raises(UserError, match=r"2 rows at each time, of 2 devices or of one"):
        log_of(tmp_path, text)
    for devices, energy_j in ((1, 600), (2, 1200)):
        log = log_of(tmp_path, text, devices=devices)
        [energy] = EnergyEstimator(log.trace).energies([Window(0, 10 * 10**9)])
        assert energy.gross_j == pytest.approx(energy_j)
    assert any("2 rows per poll" in note for note in log.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "contains no data"),
        ("t_s,power_w\n", "no readings"),
        ("t_s,power_w\n1,2\n", "fewer than two readings"),
        ("t_s,power_w\n0,[N/A]\n1,[N/A]\n", "fewer than two readings"),
        ("t_s,temperature\n0,1\n1,2\n", "no column may be power or energy"),
        ("a,power_w\n0,1\n1,2\n", "no column may be the time"),
        ("t_s,time_ms,power_w\n0,0,1\n1,1,2\n", "several columns may be the time"),
        ("t_s,cpu_power_w,gpu_power_w\n0,1,2\n1,2,3\n", "'cpu_power_w' and 'gpu_power_w'"),
        ("t_s,power_w,energy_j\n0,1,2\n1,2,3\n", "'power_w' and 'energy_j'"),
        ("t_s,power\n0,90000\n1,90001\n2,90000\n", "--power-unit"),
        (
            "t_s,energy_j\n" + "".join(f"{i},{i % 2}\n" for i in range(30)),
            "is not an energy counter",
        ),
        ("t_s,power_w\n0,a\n1,b\n", "its cells are not numbers: 'a'"),
        ("t_s,power_w\n\0\0\0", "is not a text file"),
        ("t_s,power_w\nx,1\ny,2\n", "no readable times"),
    ],
)
def test_unclear_logs_give_a_one_line_error(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        log_of(tmp_path, text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_gzip_and_missing_columns(tmp_path):
    packed = gzip.compress(("t_s,power_w\n" + rows()).encode())
    with pytest.raises(UserError, match="cut short"):
        log_of(tmp_path, packed[:-20])
    with pytest.raises(UserError, match="did you mean power_w"):
        log_of(tmp_path, "t_s,power_w\n" + rows(), power_columns=["powr_w"])
    with pytest.raises(UserError, match="unknown unit of power"):
        log_of(tmp_path, "t_s,power_w\n" + rows(), power_unit="horse")
    with pytest.raises(UserError, match="is in mw, which is not a unit of energy"):
        log_of(tmp_path, "t_s,power_mw\n" + rows(), energy_columns=["power_mw"])


def test_stated_columns_are_added_up(tmp_path):
    text = "t_s,cpu_power_w,gpu_power_w\n" + "".join(f"{i},{10 + i % 3},100\n" for i in range(20))
    log = log_of(tmp_path, text, power_columns=["cpu_power_w", "gpu_power_w"])
    assert [c.component for c in log.trace.channels] == ["cpu", "gpu"]
    [energy] = EnergyEstimator(log.trace).energies([Window(0, 15 * 10**9)])
    assert energy.gross_j == pytest.approx(15 * 111, rel=0.01)


def test_parts_of_one_log_and_logs_of_several_machines(tmp_path):
    def write(name, start):
        lines = "".join(f"{start + i},{100 + i % 3}\n" for i in range(20))
        (tmp_path / name).write_text("t_s,power_w\n" + lines)
        return tmp_path / name

    first, second, other = write("a.csv", 0), write("b.csv", 20), write("c.csv", 5)
    parts = read_logs([second, first])
    assert len(parts.trace.channels) == 1
    assert (parts.start_s, parts.stop_s) == (0, 39)
    machines = read_logs([first, other])
    assert [c.component for c in machines.trace.channels] == ["a:power", "c:power"]


def test_logs_that_were_rotated_may_repeat_rows(tmp_path):
    rows = [f"{i},{100 + i % 7}\n" for i in range(60)]
    for name, part in (("log", rows[30:]), ("log.1", rows[:40])):
        (tmp_path / name).write_text("t_s,power_w\n" + "".join(part))
    log = read_logs([tmp_path / "log", tmp_path / "log.1"])
    assert [one.value.size for one in log.trace.series] == [60]


def test_a_copy_of_a_log_is_noted(tmp_path):
    for name in ("a.csv", "b.csv"):
        rows = "".join(f"{i},{100 + i % 7}\n" for i in range(60))
        (tmp_path / name).write_text("t_s,power_w\n" + rows)
    log = read_logs([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert len(log.trace.series) == 2
    assert "identical readings of power, which both count: one may be a copy" in log.notes[-1]


def test_row_numbers_are_not_gpus(tmp_path):
    text = "index,t_s,power_w\n" + "".join(f"{i},{i / 10},{100 + i}\n" for i in range(30))
    assert [c.component for c in log_of(tmp_path, text).trace.channels] == ["power"]


def test_options_for_window_and_gain(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("t_s,power_w\n" + rows())
    options = LogOptions(window_s=0.5, gain_uncertainty=0.01)
    [channel] = read_logs([path], options).trace.channels
    assert (channel.window_s, channel.gain_uncertainty) == (0.5, 0.01)


# The sensor's update period.


@settings(max_examples=25)
@given(
    period_s=st.sampled_from([0.015, 0.05, 0.1, 1.0]),
    polls=st.integers(3, 30),
    phase=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_period_of_a_polled_sensor(period_s, polls, phase, seed):
    rng = np.random.default_rng(seed)
    t_s = np.arange(0, 60 * period_s, period_s / polls)
    truth = 100 + rng.standard_normal(200).round(2)
    value = truth[np.floor(t_s / period_s + phase).astype(int)]
    pace = pace_of(t_s, value)
    assert pace.polled
    assert pace.period_s == pytest.approx(period_s, rel=0.35 if polls < 5 else 0.2)
    new_s, new = updates(t_s, value, pace)
    assert np.median(np.diff(new_s)) == pytest.approx(pace.period_s, rel=0.35)
    assert set(new) <= set(value)


def test_log_of_every_update_is_not_polled():
    rng = np.random.default_rng(0)
    t_s = np.arange(0, 10, 0.02) + rng.normal(0, 0.002, 500)
    pace = pace_of(np.sort(t_s), rng.standard_normal(500))
    assert not pace.polled
    assert pace.period_s == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("jitter_s", "delay_s"), [(0.0, 0.0), (0.004, 0.0025)])
def test_log_of_nvmls_ring_has_its_timestamp_latency(tmp_path, jitter_s, delay_s):
    random = np.random.default_rng(0)
    t_s = 0.02 * np.arange(500) + random.uniform(0, jitter_s, 500)
    power_w = random.uniform(100, 300, 500)
    lines = [f"{t:.6f},{w:.1f}" for t, w in zip(t_s, power_w, strict=True)]
    log = log_of(tmp_path, "t_s,gpu_power_w\n" + "\n".join(lines))
    (channel,) = log.trace.channels
    assert channel.delay_s == delay_s
    assert 0.001 < channel.time_uncertainty_s < 0.003


def test_timestamps_of_other_logs_are_exact(tmp_path):
    power_w = np.random.default_rng(0).uniform(100, 300, 500)
    for period_s in (0.001, 0.1):
        lines = [f"{period_s * i:.4f},{w:.1f}" for i, w in enumerate(power_w)]
        log = log_of(tmp_path, "t_s,gpu_power_w\n" + "\n".join(lines))
        assert log.trace.channels[0].time_uncertainty_s == 0


def test_two_levels_do_not_show_the_update_period():
    t_s = np.arange(0, 100, 0.1)
    assert not pace_of(t_s, np.where(np.floor(t_s / 3) % 2 > 0, 300.0, 100.0)).polled


@pytest.mark.parametrize(
    ("log", "column", "period_s", "window_s"),
    [
        ("rtx3090_steps", "power_draw_w", 0.1, 1.0),
        ("rtx3090_steps", "power_draw_average_w", 0.1, 1.0),
        ("rtx3090_steps", "power_draw_instant_w", 0.1, 0.025),
        ("rtx3090_square", "power_draw_w", 0.1, 1.0),
        ("k40m_steps", "power_draw_w", 0.015, 0.015),
    ],
)
def test_period_and_window_of_real_logs(log, column, period_s, window_s):
    options = LogOptions(power_columns=[column])
    [channel] = read_logs([DATA / f"{log}_nvidia_smi.csv.gz"], options).trace.channels
    assert channel.polled
    assert channel.update_period_s == pytest.approx(period_s, rel=0.05)
    assert channel.window_s == pytest.approx(window_s, rel=0.05)


# Averages.


def averaged_log(tmp_path, edges_s, levels_w, until_s=30.0):
    """Log a 1 s average, updated every 0.1 s and polled every 0.02 s, of power with steps."""
    fine_s = np.arange(-5, until_s, 0.001)
    power = np.array(levels_w)[np.searchsorted(edges_s, fine_s, side="right")]
    energy = np.concatenate(([0.0], np.cumsum(power) * 0.001))
    polls_s = np.arange(0, until_s - 0.1, 0.02)
    new_s = np.floor(polls_s / 0.1 + 1e-9) * 0.1

    def at(t_s):
        return np.interp(t_s, np.append(fine_s, until_s), energy)

    noise = np.random.default_rng(1).normal(0, 0.05, 10_000)
    value = at(new_s) - at(new_s - 1.0) + noise[np.rint(new_s * 10).astype(int)]
    lines = [f"{t:.3f},{w:.2f}" for t, w in zip(polls_s, value, strict=True)]
    log = log_of(tmp_path, "\n".join(["t_s,power.draw.average [W]", *lines, ""]))
    return log, lambda a, b: float(at(b) - at(a))


def test_steps_at_the_edges_of_a_span_are_restored(tmp_path):
    log, truth = averaged_log(tmp_path, [5.03, 13.37], [100.0, 500.0, 150.0])
    assert is_averaged(log.trace.channels[0])
    window = Window(5_030_000_000, 13_370_000_000)
    true_j = truth(5.03, 13.37)
    [smeared] = EnergyEstimator(log.trace).energies([window])
    [sharp] = energies_of(log.trace, [window])
    assert abs(sharp.gross_j / true_j - 1) < 0.005
    assert abs(smeared.gross_j / true_j - 1) > 0.015
    low_j, high_j = sharp.interval_j
    assert low_j < true_j < high_j


def test_burst_shorter_than_the_window(tmp_path):
    edges_s = [5.0, 5.4, 12.0, 20.0]
    log, truth = averaged_log(tmp_path, edges_s, [100.0, 500.0, 100.0, 300.0, 120.0])
    windows = [Window(5 * 10**9, 5_400_000_000), Window(12 * 10**9, 20 * 10**9)]
    burst, work = energies_of(log.trace, windows)
    assert burst.gross_j == pytest.approx(truth(5.0, 5.4), rel=0.05)
    assert work.gross_j == pytest.approx(truth(12.0, 20.0), rel=0.005)
    low_j, high_j = burst.interval_j
    assert low_j < truth(5.0, 5.4) < high_j


def test_steps_at_the_end_of_the_log_or_in_a_gap_are_not_restored(tmp_path):
    log, _ = averaged_log(tmp_path, [15.0], [100.0, 500.0])
    [channel] = log.trace.channels
    t_ns, value = log.trace.series[0]
    hole = (t_ns < 14.5 * 1e9) | (t_ns > 15.5 * 1e9)
    marks_s = np.array([0.05, 10.0, 15.0, 29.5])
    *_, done = sharpen(channel, t_ns[hole] * 1e-9, value[hole], 0.02, marks_s)
    assert done.tolist() == [False, True, False, False]


# Spans.


def spans_of(tmp_path, text):
    path = tmp_path / "spans.csv"
    path.write_text(text)
    return read_spans(path, "UTC")


def test_spans_keep_their_further_columns(tmp_path):
    text = "model,name,start_s,stop_s\nLeNet,train,1,2.5\n,idle,2024-01-31 12:34:56,1706704500\n"
    first, second = spans_of(tmp_path, text)
    assert (first.name, first.start_s, first.stop_s) == ("train", 1.0, 2.5)
    assert first.attributes == {"model": "LeNet"}
    assert (second.start_s, second.stop_s) == (1706704496.0, 1706704500.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,start,stop\na,1,2\n", "no column 'start_s'"),
        ("a,1,2\n", "no column 'name'"),
        ("name,start_s,stop_s\n", "no spans"),
        ("name,start_s,stop_s\na,1,2\nb,3,2\n", "row 2: the span stops before it starts"),
        ("name,start_s,stop_s\na,1,soon\n", "row 1: stop_s is 'soon'"),
        ("name,start_s,stop_s\na,,2\n", "row 1: start_s is empty"),
        ("name,start_s,stop_s\na,1\n", "row 1 has 2 columns"),
    ],
)
def test_spans_that_cannot_be(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        spans_of(tmp_path, text)


def test_idle_by_name_or_time(tmp_path):
    spans = spans_of(tmp_path, "name,start_s,stop_s\nidle,0,1\nwork,1,2\nidle,2,3\n")
    assert [span.start_s for span in idle_spans("idle", spans)] == [0, 2]
    assert idle_spans("4:5", spans)[0].stop_s == 5
    for wrong in ("idel", "5:4"):
        with pytest.raises(UserError):
            idle_spans(wrong, spans)


@pytest.mark.parametrize(
    ("text", "stem", "unit"),
    [
        ("GPU Temperature [°C]", "gpu_temperature", "c"),
        ("temperature_c", "temperature", "c"),
        ("memory.used [MiB]", "memory_used", "mib"),
        ("gpuUtilization", "gpu_utilization", ""),
        ("power_c", "power_c", ""),
        ("Power (B)", "power", ""),
        ("power_min", "power_min", ""),
        ("T_junction", "t_junction", ""),
    ],
)
def test_units_of_telemetry_are_not_phases_of_a_meter(text, stem, unit):
    assert parse_name(text) == (stem, unit)


@given(st.text(max_size=40))
def test_any_name_can_be_parsed(text):
    name = parse_name(text)
    assert name.stem == name.stem.lower()


@settings(max_examples=40)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_a_user_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "log.csv"
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        assert open_table(path).names
        assert read_logs([path]).trace.size


def test_one_of_several_gpus_without_readings_is_absent(tmp_path):
    rows = "".join(f"{i / 10},0,100 W\n{i / 10},1,[N/A]\n" for i in range(100))
    log = log_of(tmp_path, "t_s,index,power.draw.instant [W]\n" + rows)
    [energy] = EnergyEstimator(log.trace).energies([Window(10**9, 9 * 10**9)])
    assert list(energy.components) == ["gpu:0"]
    assert energy.absent["gpu:1"] == "log.csv has no readings of it in 'power.draw.instant [W]'"


def test_log_without_readings_of_any_gpu_is_an_error(tmp_path):
    rows = "".join(f"{i / 10},{gpu},[N/A]\n" for i in range(100) for gpu in (0, 1))
    with pytest.raises(UserError, match="no readings of any of its 2 GPUs"):
        log_of(tmp_path, "t_s,index,power.draw.instant [W]\n" + rows)
