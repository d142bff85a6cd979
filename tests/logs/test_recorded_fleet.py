"""Logs of many hosts as one report: recorded fleets of MLPerf, and fleets with a known energy."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.logs.columns import LogOptions
from joulelab.logs.recorded_fleet import find_host_logs, fleet_energy, read_fleet, supply_loss
from joulelab.logs.run_window import read_run_windows
from joulelab.logs.span_energies import ImportedSpan

MLPERF = Path(__file__).parent / "data" / "mlperf"
KWH = 3.6e6
EIGHT = [f"node_{i}" for i in range(8)]
START_S = 1_700_000_000


def read(*patterns, **options):
    return read_fleet([str(one) for one in patterns], LogOptions(**options))


def write_log(path, power_w=100.0, start_s=START_S, seconds=100, step_s=1.0):
    """Log a constant power as MLPerf does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = (start_s + i * step_s for i in range(round(seconds / step_s) + 1))
    lines = [
        ":::MLLOG "
        + json.dumps({"key": "power_reading", "time_ms": round(t * 1e3), "value": power_w})
        for t in times
    ]
    path.write_text("\n".join(lines) + "\n")


def write_csv(path, power_w=100.0, start_s=START_S, seconds=100):
    """Log a constant power as a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (f"{start_s + i},{power_w}\n" for i in range(seconds + 1))
    path.write_text("timestamp,power [W]\n" + "".join(rows))


def window(start_s=START_S + 10, stop_s=START_S + 90):
    return ImportedSpan("run", start_s, stop_s)


# Trapezoids over the eight recordings, and over the run.
@pytest.mark.parametrize(
    ("meter", "whole_kwh", "run_kwh"), [("ac", 2.6061, 1.9622), ("dc", 2.5557, 1.9456)]
)
def test_energy_of_a_training_on_eight_nodes(meter, whole_kwh, run_kwh):
    fleet = read(MLPERF / meter / "node_*")
    [run] = read_run_windows(MLPERF / "result.txt")
    whole, within = fleet_energy(fleet), fleet_energy(fleet, run)
    assert (list(fleet.logs), fleet.missing) == (EIGHT, {})
    assert whole.total.value == pytest.approx(whole_kwh * KWH, rel=1e-3)
    assert within.total.value == pytest.approx(run_kwh * KWH, rel=1e-3)
    assert run.stop_s - run.start_s == pytest.approx(152.451)
    assert sum(row["gross_j"] for row in within.rows) == pytest.approx(within.total.value)


def test_two_hosts_with_identical_readings_are_named():
    fleet = read(MLPERF / "ac" / "node_*")
    assert any(note.startswith("node_3 and node_4 have identical") for note in fleet.notes)


def test_power_supplies_lose_the_difference_and_are_not_added():
    ac, dc = read(MLPERF / "ac" / "node_*"), read(MLPERF / "dc" / "node_*")
    loss = supply_loss(ac, dc, None)
    assert loss.hosts == 8
    assert loss.fraction.value == pytest.approx(0.0193, abs=5e-4)
    assert 0 <= loss.fraction.low < loss.fraction.value < loss.fraction.high < 0.1
    assert loss.lost_j == pytest.approx(loss.ac.total.value - loss.dc.total.value)
    with pytest.raises(UserError, match=r"several logs are of host 'node_0'.*--dc"):
        read(MLPERF / "ac" / "*", MLPERF / "dc" / "*")


def test_exact_meters_show_a_small_loss_as_significant(tmp_path):
    for i in range(3):
        write_log(tmp_path / "ac" / f"n{i}.txt", 100.0)
        write_log(tmp_path / "dc" / f"n{i}.txt", 95.0)
    sides = [read(tmp_path / meter, gain_uncertainty=0.002) for meter in ("ac", "dc")]
    found = supply_loss(*sides, window()).fraction
    assert found.value == pytest.approx(0.05)
    assert 0.02 < found.low < 0.05 < found.high < 0.08


def test_two_meters_of_a_host_have_errors_of_their_own(tmp_path):
    for meter, power_w in (("ac", 100.0), ("dc", 99.9)):
        write_csv(tmp_path / meter / "n0.csv", power_w)
    found = supply_loss(*(read(tmp_path / meter) for meter in ("ac", "dc")), None).fraction
    assert found.value == pytest.approx(0.001)
    assert found.low == 0
    assert found.high > 0.1  # 6.5 % of each


def test_hosts_recorded_at_different_times_have_no_power_together(tmp_path):
    write_log(tmp_path / "n0.txt")
    write_log(tmp_path / "n1.txt", seconds=50)
    apart = fleet_energy(read(tmp_path)).to_json()
    assert apart["mean_power_w"] is None
    assert [row["mean_power_w"] for row in apart["hosts"]] == pytest.approx([100, 100])
    write_log(tmp_path / "n1.txt", seconds=99.5, step_s=0.5)
    assert fleet_energy(read(tmp_path)).to_json()["mean_power_w"] == pytest.approx(200)


def test_a_host_on_another_clock_is_named_and_no_time_is_made_of_both(tmp_path):
    write_csv(tmp_path / "n0.csv")
    write_csv(tmp_path / "n1.csv", start_s=1000)
    fleet = read(tmp_path)
    found = fleet_energy(fleet).to_json()
    assert found["gross_j"] == pytest.approx(20_000)
    assert (found["start_s"], found["stop_s"], found["duration_s"]) == (None, None, None)
    assert any("n1 has times of another clock" in note for note in fleet.notes)


def test_joules_per_image_by_the_wall_meter():
    fleet = read(MLPERF / "spl.txt.gz", timezone="UTC")
    [run] = read_run_windows(MLPERF / "mlperf_log_detail.txt", "UTC")
    row = fleet_energy(fleet, run).to_json()
    assert run.attributes == {"samples": "8910"}
    assert row["gross_j_per_sample"] == pytest.approx(422, rel=5e-3)
    assert row["low_j_per_sample"] < 422 < row["high_j_per_sample"]


def test_a_host_whose_log_ends_early_counts_while_it_lasts(tmp_path):
    write_log(tmp_path / "n0.txt")
    write_log(tmp_path / "n1.txt", seconds=50)
    found = fleet_energy(read(tmp_path), window())
    assert [row["gross_j"] for row in found.rows] == pytest.approx([8000, 4100], rel=1e-6)
    assert "has readings for 41.0 s of 1 min 20 s" in found.to_json()["reason"]
    # Nothing says that the host drew nothing afterwards.
    assert [row["mean_power_w"] for row in found.rows] == pytest.approx([100, 100], rel=1e-6)


def test_hosts_without_a_record_are_named(tmp_path):
    for i in (0, 1, 3):
        write_log(tmp_path / f"node_{i}.txt")
    (tmp_path / "node_4.txt").write_text(
        ':::MLLOG {"key": "power_measurement_start", "time_ms": 1}\n'
    )
    fleet = read(tmp_path)
    assert list(fleet.logs) == ["node_0", "node_1", "node_3"]
    assert fleet.missing["node_2"] == "there is no log of this name"
    assert "no readings" in fleet.missing["node_4"]


def test_a_clock_in_another_time_zone_is_named_and_not_counted(tmp_path):
    write_log(tmp_path / "n0.txt")
    write_log(tmp_path / "n1.txt", start_s=START_S + 7 * 3600)
    found = fleet_energy(read(tmp_path), window())
    assert found.total.value == pytest.approx(8000)
    assert found.energies["n1"] is None
    assert "would fit if its clock were 7 h" in found.rows[1]["reason"]


def test_dates_of_another_time_zone_agree_with_seconds_since_1970(tmp_path):
    lines = [f"2023-11-14T23:13:{i:02d},100" for i in range(20, 60)]
    (tmp_path / "n0.csv").write_text("time,power_w\n" + "\n".join(lines) + "\n")
    found = fleet_energy(
        read(tmp_path, timezone="Europe/Berlin"), window(START_S + 10, START_S + 20)
    )
    assert found.total.value == pytest.approx(1000)


def test_a_gap_widens_the_interval(tmp_path):
    write_log(tmp_path / "n0.txt")
    full = fleet_energy(read(tmp_path), window())
    lines = (tmp_path / "n0.txt").read_text().splitlines(keepends=True)
    (tmp_path / "n0.txt").write_text("".join(lines[:30] + lines[60:]))
    with_gap = fleet_energy(read(tmp_path), window())
    assert with_gap.total.value == pytest.approx(full.total.value)
    assert with_gap.total.uncertainty > full.total.uncertainty
    assert "no readings for 30.0 s" in with_gap.rows[0]["reason"]


@settings(deadline=None, max_examples=15)
@given(
    powers_w=st.lists(st.integers(50, 5000), min_size=1, max_size=5),
    step_s=st.sampled_from([0.5, 1.0, 2.0]),
    order=st.randoms(use_true_random=False),
)
def test_the_total_is_the_sum_in_any_order_of_rows(tmp_path_factory, powers_w, step_s, order):
    directory = tmp_path_factory.mktemp("fleet")
    for i, power_w in enumerate(powers_w):
        path = directory / f"node{i:02d}.log"
        write_log(path, power_w, step_s=step_s)
        lines = path.read_text().splitlines(keepends=True)
        order.shuffle(lines)
        path.write_text("".join(lines))
    found = fleet_energy(read(directory / "*.log"), window())
    assert found.total.value == pytest.approx(80 * sum(powers_w), rel=1e-6)
    assert [row["host"] for row in found.rows] == [f"node{i:02d}" for i in range(len(powers_w))]


def test_hosts_are_named_after_files_or_directories(tmp_path):
    for name in ("h2", "h10"):
        write_log(tmp_path / name / "power.txt")
    by_parent = find_host_logs([str(tmp_path / "*" / "power.txt")])
    by_directory = find_host_logs([str(tmp_path)])
    assert list(by_parent) == list(by_directory) == ["h2", "h10"]
    assert by_parent == by_directory


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([("run_start", 1)], "it has no run_stop"),
        ([("power_reading", 1)], "it has none of run_start, power_begin"),
        ([("run_start", 2_000_000_000_000), ("run_stop", 1_900_000_000_000)], "no valid time"),
    ],
)
def test_a_window_that_is_none_is_an_error(tmp_path, events, message):
    lines = [":::MLLOG " + json.dumps({"key": key, "time_ms": time}) for key, time in events]
    (tmp_path / "result.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=message):
        read_run_windows(tmp_path / "result.txt")


def test_several_runs_in_one_log(tmp_path):
    times = [1_700_000_000_000 + i * 1000 for i in range(4)]
    keys = ["run_start", "run_stop"] * 2
    lines = [
        ":::MLLOG " + json.dumps({"key": key, "time_ms": time})
        for key, time in zip(keys, times, strict=True)
    ]
    (tmp_path / "result.txt").write_text("\n".join(lines) + "\n")
    assert [one.name for one in read_run_windows(tmp_path / "result.txt")] == ["run 1", "run 2"]
    # The log of a process that was killed may lack the last line's end.
    (tmp_path / "result.txt").write_text("\n".join(lines))
    assert len(read_run_windows(tmp_path / "result.txt")) == 2


def test_no_host_in_the_window_is_an_error(tmp_path):
    write_log(tmp_path / "n0.txt")
    with pytest.raises(UserError, match="no host has readings in the window 'run'"):
        fleet_energy(read(tmp_path), window(START_S - 2e6, START_S - 1e6))


def test_an_estimate_of_the_switch_is_named_and_not_counted(tmp_path):
    shutil.copy(MLPERF / "sw_0.txt", tmp_path)
    write_log(tmp_path / "node_0.txt")
    fleet = read(tmp_path)
    assert list(fleet.logs) == ["node_0"]
    assert "interconnect_power_est 16100" in fleet.missing["sw_0"]
