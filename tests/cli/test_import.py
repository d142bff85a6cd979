import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from energy_parts import make_channel

from joulelab.logs import calibration_fit
from joulelab.recording.trace_format import TraceWriter, pack

DATA = Path(__file__).parents[1] / "logs" / "data"


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def energies(run):
    def call(*arguments):
        code, out, err = run("import", *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


@pytest.fixture
def steady(tmp_path):
    """Log 100 W from 0 to 10 s and 300 W from 10 to 20 s, every 0.1 s."""
    path = tmp_path / "power.csv"
    lines = (f"{i / 10},{100 if i <= 100 else 300}" for i in range(201))
    path.write_text("t_s,power_w\n" + "\n".join(lines) + "\n")
    return path


def spans(tmp_path, *rows, header="name,start_s,stop_s"):
    path = tmp_path / "spans.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_energy_of_each_span(tmp_path, steady, energies):
    table = spans(tmp_path, "a,1,5", "b,12,18.5", "c,8,12")
    rows = energies("--power", steady, "--spans", table)
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert {"name", "start_s", "stop_s", "gross_j", "low_j", "high_j"} <= rows[0].keys()
    for row, true_j in zip(rows, (400, 1950, 800), strict=True):
        assert row["gross_j"] == pytest.approx(true_j, rel=0.02)
        assert row["low_j"] < true_j < row["high_j"]
        assert row["net_j"] is None
        assert row["reason"] is None


def test_the_whole_log_without_spans(steady, energies):
    [row] = energies("--power", steady)
    assert (row["name"], row["start_s"], row["stop_s"]) == ("whole log", 0, 20)
    assert row["gross_j"] == pytest.approx(4000, rel=0.01)


@pytest.mark.parametrize("idle", ["idle", "1:9"])
def test_net_of_idle(tmp_path, steady, energies, idle):
    table = spans(tmp_path, "idle,1,9", "work,12,18")
    work = energies("--power", steady, "--spans", table, "--idle", idle)[1]
    assert work["idle_j"] == pytest.approx(600, rel=0.01)
    assert work["net_j"] == pytest.approx(1200, rel=0.01)
    assert work["net_low_j"] < 1200 < work["net_high_j"]


def test_net_energy_below_zero_has_its_reason(tmp_path, steady, energies):
    table = spans(tmp_path, "work,12,18", "idle,1,9")
    work, idle = energies("--power", steady, "--spans", table, "--idle", "work")
    assert idle["net_j"] < 0
    assert "the machine drew less than in the idle measurement" in idle["reason"]
    assert work["reason"] is None


def test_a_span_outside_the_log_is_null_with_a_reason(tmp_path, steady, energies):
    table = spans(tmp_path, "in,1,5", "out,30,40", "half,18,30")
    inside, outside, half = energies("--power", steady, "--spans", table)
    assert inside["gross_j"] is not None
    assert (outside["gross_j"], outside["low_j"], outside["high_j"]) == (None, None, None)
    assert "outside the log, which goes from 0 to 20 s" in outside["reason"]
    assert half["gross_j"] is None
    assert "covers only" in half["reason"]


def test_precision_of_times_since_1970(tmp_path, energies):
    path = tmp_path / "power.csv"
    start = 1_760_000_000.25
    path.write_text(
        "time_s,power_w\n" + "".join(f"{start + i / 100:.6f},250\n" for i in range(500))
    )
    table = spans(tmp_path, f"a,{start + 1},{start + 1.0005}")
    [row] = energies("--power", path, "--spans", table)
    assert row["start_s"] == start + 1
    assert row["gross_j"] == pytest.approx(250 * 0.0005, rel=1e-3)


def test_csv_includes_other_columns_of_the_spans(tmp_path, steady, energies):
    table = spans(tmp_path, "a,1,5,LeNet", "b,30,40,VGG", header="name,start_s,stop_s,model")
    out = tmp_path / "out.csv"
    energies("--power", steady, "--spans", table, "--csv", out)
    with out.open() as file:
        first, second = csv.DictReader(file)
    assert (first["name"], first["model"]) == ("a", "LeNet")
    assert float(first["gross_j"]) == pytest.approx(400, rel=0.01)
    assert second["gross_j"] == ""
    assert "outside" in second["reason"]


def test_printed_table(tmp_path, steady, printed):
    table = spans(tmp_path, "a[b],1,5", "out,30,40")
    out = printed("import", "--power", steady, "--spans", table)
    assert "a[b]" in out
    assert "power_w of power.csv" in out
    assert "out: outside the log" in out


def test_gpus_add_up(tmp_path, energies):
    lines = ["timestamp, index, power.draw [W]"]
    lines += [
        f"2024/01/31 12:00:{i // 20:02d}.{i % 20 * 50:03d}, {gpu}, {100 + 50 * gpu}.{i % 7} W"
        for i in range(200)
        for gpu in (0, 1)
    ]
    path = tmp_path / "smi.csv"
    path.write_text("\n".join(lines) + "\n")
    table = spans(tmp_path, "a,2024-01-31 12:00:02,2024-01-31 12:00:08")
    [row] = energies("--power", path, "--spans", table, "--timezone", "UTC")
    assert sorted(row["components"]) == ["gpu:0", "gpu:1"]
    assert row["gross_j"] == pytest.approx(6 * 250, rel=0.01)
    [one] = energies("--power", path, "--spans", table, "--timezone", "UTC", "--gpu", "1")
    assert one["gross_j"] == pytest.approx(6 * 150, rel=0.01)


def test_samples_of_an_h100_agree_with_its_counter(energies):
    rows = energies(
        "--power", DATA / "h100_power_samples.csv.gz", "--spans", DATA / "h100_spans.csv"
    )
    assert len(rows) == 10
    for row in rows:
        counter_j = float(row["attributes"]["counter_j"])
        assert row["gross_j"] == pytest.approx(counter_j, rel=0.04)
        assert row["low_j"] < counter_j < row["high_j"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--power", "missing.csv"), "does not exist"),
        ((), "Missing option"),
        (("--power", "LOG", "--spans", "EMPTY"), "no column 'name'"),
        (("--power", "LOG", "--spans", "FAR"), "no span is within the log"),
        (("--power", "LOG", "--idle", "100:200"), "does not cover the idle spans"),
        (("--power", "LOG", "--idle", "idle"), "no span is named 'idle'"),
        (("--power", "LOG", "--calibration", "LOG"), "is not a calibration"),
        (("--power", "LOG", "--power-column", "watt"), "has no column 'watt'"),
        (("--power", "LOG", "--csv", "/nowhere/out.csv"), "cannot write"),
    ],
)
def test_user_errors_are_one_line(tmp_path, steady, refused, arguments, words):
    (tmp_path / "empty.csv").write_text("a,b\n1,2\n")
    files = {"LOG": steady, "EMPTY": tmp_path / "empty.csv"}
    files["FAR"] = spans(tmp_path, "a,1000,1001")
    assert words in refused("import", *(files.get(argument, argument) for argument in arguments))


# Calibrations.


@pytest.fixture(scope="module", autouse=True)
def cached_fits():
    """Fit the same data only once: most tests calibrate the same log."""
    fits = {}

    def cached(t_s, reading_w, meter, clock_offset_s):
        key = (t_s.tobytes(), reading_w.tobytes(), meter.energy_j.tobytes(), clock_offset_s)
        if key not in fits:
            fits[key] = calibration_fit.fit(t_s, reading_w, meter, clock_offset_s)
        return fits[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("joulelab.logs.calibrate.fit", cached)
        yield


def calibrate(run, *arguments):
    return run(
        "calibrate", "--log", DATA / "rtx3090_steps_nvidia_smi.csv.gz",
        "--meter", DATA / "rtx3090_steps_meter.csv.gz", *arguments,
    )  # fmt: skip


@pytest.mark.parametrize("column", ["power_draw_w", "power_draw_average_w", "power_draw_instant_w"])
def test_calibrate_then_import(tmp_path, printed, energies, column):
    out = tmp_path / "board.json"
    marks = DATA / "rtx3090_steps_marks.csv"
    text = calibrate(printed, "--marks", marks, "--column", column, "--out", out)
    assert "before" in text
    assert "after" in text
    start_s, stop_s = (DATA / "rtx3090_square_marks.csv").read_text().split()[1:]
    table = spans(tmp_path, f"work,{start_s},{stop_s}")
    log = ["--power", DATA / "rtx3090_square_nvidia_smi.csv.gz", "--power-column", column]
    [row] = energies(*log, "--spans", table, "--calibration", out)
    # The meter's energy over the same time.
    assert row["gross_j"] == pytest.approx(2389.4, rel=0.01)
    assert "calibrated-" in row["components"]["gpu:0"]["source"]


def test_calibrate_json_and_saved_file(tmp_path, run):
    code, out, err = calibrate(run, "--board", "GPU-1a2b", "--name", "RTX 3090", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["source"] == "nvml.power_instant"
    assert found["board_uuid"] == "GPU-1a2b"
    assert found["gain"] == pytest.approx(0.951, abs=0.005)
    assert found["meter_uncertainty"] == 0.01
    assert abs(found["check"]["after_pct"]) < abs(found["check"]["before_pct"])
    path = Path(found["kept_in"])
    assert path.parent == tmp_path / "home" / "calibrations"
    assert json.loads(path.read_text())["schema"] == "joulelab-calibration-1"


def test_uncertainty_of_the_meter_is_included(tmp_path, printed):
    gains = []
    for percent in (0.1, 3):
        out = tmp_path / "board.json"
        calibrate(printed, "--meter-uncertainty", percent, "--out", out)
        gains.append(json.loads(out.read_text())["gain_uncertainty"])
    assert gains[0] < 0.003
    assert gains[1] == pytest.approx(0.03, rel=0.01)


def test_calibrate_from_a_recording(tmp_path, printed):
    """Calibrate a trace of JouleLab against a meter in wall-clock time."""
    channel = make_channel(source="nvml.power_instant", window_s=0.025, polled=True)
    header = {
        "channels": [channel.to_json()], "intervals_s": [0.1], "absent": [],
        "start_ns": 5 * 10**12, "start_unix_s": 1.7e9,
    }  # fmt: skip
    directory = tmp_path / "trace"
    directory.mkdir()
    writer = TraceWriter(directory, header)
    log = pd.read_csv(DATA / "rtx3090_steps_nvidia_smi.csv.gz")
    writer.readings(
        pack(5 * 10**12 + round(t_s * 1e9), power_w, 0)
        for t_s, power_w in zip(log["t_s"], log["power_draw_instant_w"], strict=True)
    )
    writer.close()
    meter = pd.read_csv(DATA / "rtx3090_steps_meter.csv.gz")
    meter = meter.assign(unix_time=1.7e9 + meter["t_s"])[["unix_time", "power_w"]]
    meter.to_csv(tmp_path / "meter.csv", index=False)
    out = printed(
        "calibrate", "--log", directory, "--meter", tmp_path / "meter.csv", "--board", "x", "--json"
    )
    assert json.loads(out)["gain"] == pytest.approx(0.951, abs=0.005)


def test_calibrate_user_errors(refused, steady):
    cases = [
        ([], "board is unknown"),
        (["--out", "/nowhere/x.json"], "cannot write"),
        (["--board", "x", "--marks", steady, "--column", "volts"], "has no column 'volts'"),
        (["--board", "x", "--log", steady], "do not follow"),
        (["--board", "x", "--meter", steady], "do not follow"),
    ]
    for arguments, words in cases:
        assert words in calibrate(refused, *arguments)


def test_skipped_lines_go_to_stderr_and_gaps_to_their_span(tmp_path, run):
    log = tmp_path / "smi.csv"
    rows = [f"{i / 10},{'[N/A]' if 50 <= i < 100 else '100.00 W'}" for i in range(201)]
    log.write_text("\n".join(["t_s,power.draw.instant [W]", *rows, ""]))
    table = spans(tmp_path, "a,2,12", "b,12,18")
    code, out, err = run("import", "--power", log, "--spans", table, "--json")
    assert code == 0
    assert err == "smi.csv: 'power.draw.instant [W]' has no value in 50 lines\n"
    first, second = json.loads(out)
    assert re.fullmatch(r"gpu:0: no readings for (4\.9|5\.[01])\d* s of 10\.0 s", first["reason"])
    assert first["gross_j"] == pytest.approx(1000.0)
    assert second["reason"] is None


def test_stuck_counter_is_null_and_reset_is_reported(tmp_path, energies):
    log = tmp_path / "counter.csv"
    log.write_text("t_s,energy_j\n" + "".join(f"{i},500\n" for i in range(101)))
    [row] = energies("--power", log, "--energy-kind", "counter")
    assert row["gross_j"] is None
    assert "did not advance for 1 min 40 s" in row["reason"]
    counted = (f"{i},{9000 + 100 * i if i < 50 else 100 * i - 5000}\n" for i in range(101))
    log.write_text("t_s,energy_j\n" + "".join(counted))
    [row] = energies("--power", log)
    assert row["gross_j"] == pytest.approx(10_000.0)
    assert "was reset, wrapped or has a gap" in row["reason"]


def test_names_with_line_breaks_and_markup(tmp_path, steady, printed):
    table = spans(tmp_path, '"two\nlines [bold]",1,2', ",3,4")
    out = printed("import", "--power", steady, "--spans", table)
    assert "two\\nlines [bold]" in out
    assert "(no name)" in out


def test_calibration_of_an_unknown_source_warns(tmp_path, printed):
    t_s = [i / 10 for i in range(600)]
    true_w = [300.0 if int(t / 7) % 2 else 80.0 for t in t_s]
    for name, gain in (("log", 0.95), ("meter", 1.0)):
        rows = (f"{t},{gain * w}\n" for t, w in zip(t_s, true_w, strict=True))
        (tmp_path / f"{name}.csv").write_text("t_s,power_w\n" + "".join(rows))
    files = ("--log", tmp_path / "log.csv", "--meter", tmp_path / "meter.csv", "--json")
    out = printed("calibrate", *files, "--board", "GPU-1")
    assert "not log.power" in json.loads(out)["notes"][-1]
    out = printed("calibrate", *files, "--out", tmp_path / "board.json")
    assert json.loads(out)["notes"] == []


def test_a_recorded_fleet(run, tmp_path):
    mlperf = DATA / "mlperf"
    arguments = ["--hosts", mlperf / "ac" / "node_*", "--window", mlperf / "result.txt"]
    arguments += ["--dc", mlperf / "dc" / "node_*", "--csv", tmp_path / "hosts.csv"]
    code, out, err = run("import", *arguments)
    assert (code, err) == (0, "")
    assert "8 hosts" in out
    assert re.search(r"whole recording: 9,3\d\d kJ .* 2,606 Wh, 4 min 26 s", out)
    assert re.search(r"The power supplies lost 0\.\d+ % \(95 % CI 0\.00–\d\.\d+ %\)", out)
    with (tmp_path / "hosts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["host"] for row in rows] == [f"node_{i}" for i in range(8)] * 2
    code, out, err = run("import", *arguments[:-2], "--json")
    within, whole = json.loads(out)
    assert (within["name"], whole["name"]) == ("run", "whole recording")
    assert within["power_supplies"]["dc"]["gross_j"] < within["gross_j"] < whole["gross_j"]
    assert len(within["hosts"]) == 8
    assert within["missing"] == {}
    assert "identical readings" in err


def test_joules_per_sample_of_a_recorded_run(energies):
    mlperf = DATA / "mlperf"
    arguments = ["--power", mlperf / "spl.txt.gz", "--window", mlperf / "mlperf_log_detail.txt"]
    [row] = energies(*arguments)
    assert row["gross_j_per_sample"] == pytest.approx(422, rel=5e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--power", "LOG", "--window", "1.5"], "--averaging-window"),
        (["--hosts", "LOG", "--power", "LOG"], "--power and --hosts cannot be combined"),
        (["--dc", "LOG", "--power", "LOG"], "Missing option '--hosts'"),
        (["--hosts", "nothing_*"], "no log of a host matches"),
    ],
)
def test_errors_of_fleets_are_one_line(steady, refused, arguments, words):
    assert words in refused("import", *(steady if one == "LOG" else one for one in arguments))
