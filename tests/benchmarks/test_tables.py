"""Errors, intervals and the result page from measured windows."""

import numpy as np
import pytest
from benchmarks.errors import cases, summarise, truth_of
from benchmarks.table import markdown
from benchmarks.tools import TOOLS

from benchmarks import energy_scale
from joulelab.sensors.simulated import Waveform

SECOND_NS = 10**9


def rows_of(*energies_j, waveform=None):
    waveform = waveform or Waveform.constant(100)
    windows = [[1.0, i * SECOND_NS, (i + 1) * SECOND_NS, e] for i, e in enumerate(energies_j)]
    return summarise("zeus", "a case", windows, truth_of(waveform))


def test_errors_are_relative_to_the_truth():
    (row,) = rows_of(101.0, 98.0, 100.0)
    assert row["median_pct"] == pytest.approx(1.0)
    assert row["bias_pct"] == pytest.approx(-1 / 3)
    assert row["p90_pct"] == pytest.approx(1.8)
    assert (row["count"], row["given"], row["zeros"]) == (3, 3, 0)


def test_a_zero_is_an_error_of_100_percent_and_an_absent_energy_is_none():
    (row,) = rows_of(0.0, None, 100.0)
    assert (row["count"], row["given"], row["zeros"]) == (3, 2, 1)
    assert row["median_pct"] == pytest.approx(50.0)
    (row,) = rows_of(None, None)
    assert row["median_pct"] is row["p90_pct"] is row["bias_pct"] is None


def test_the_truth_is_the_waveforms_energy_between_the_two_times():
    wave = Waveform.square(low_w=100, high_w=600, period_s=0.2)
    (row,) = rows_of(350.0, waveform=wave)
    assert row["median_pct"] == pytest.approx(0.0, abs=1e-9)


def test_cases_have_the_requested_windows():
    by_name = {case.name: case for group in cases(40) for case in group}
    assert dict(by_name["steady 350 W"].plan) == {0.05: 40, 0.1: 40, 0.3: 40, 1.0: 40, 10.0: 1}
    bursts = by_name["bursts 60 ms each 200 ms"]
    assert bursts.burst_period_s == pytest.approx(bursts.waveform.period_s)
    ((window_s, _),) = bursts.plan
    assert bursts.waveform.energy_j(0, window_s) == pytest.approx(600 * window_s)
    assert bursts.waveform.power_w(window_s + 1e-6) == 100


def result(errors):
    cost = {
        "window": {"median_s": 8e-3, "p90_s": 9e-3, "processor_s": 7.5e-3, "ready_s": 1.5},
        "background": {"cpu_share": 0.005, "own_rss_bytes": 5e6, "process_rss_bytes": None},
        "import_s": 0.25,
        "size_bytes": 9e7,
    }
    return {
        "date": "2026-01-02",
        "gpu": "simulated",
        "about": {"machine": "a machine"},
        "tools": {"joulelab": "0.1.0", "zeus": "0.16.0"},
        "errors": errors,
        "costs": {"zeus": cost},
        "notes": ["a note"],
        "missing": {"codecarbon": "not installed"},
    }


def cells(page, title):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_page_lists_what_was_measured_and_what_was_not():
    page = markdown(result(rows_of(0.0, None, 100.0)))
    assert cells(page, "error, a case, 1.00 s") == [
        "not run",
        "50.00 / 90.00 / -50.00 %, 1 of 3 zero, 1 of 3 without energy",
    ]
    assert cells(page, "open + close a window") == ["not run", "8.00 ms (9.00 ms)"]
    assert cells(page, "memory of its own processes") == ["not run", "none"]
    assert cells(page, "installed size") == ["not run", "90.0 MB"]
    assert "Not run: codecarbon: not installed." in page
    assert TOOLS["zeus"].settings in page


def test_the_error_of_one_window_has_a_sign():
    page = markdown(result(rows_of(98.0)))
    assert cells(page, "error, a case, 1.00 s") == ["not run", "-2.00 %"]


def test_the_interval_of_ratios_contains_their_median():
    pytest.importorskip("torch")
    from benchmarks.slowdown import interval

    ratios = np.random.default_rng(2).normal(1.01, 0.02, 40)
    found = interval(ratios)
    assert found["ratio"] == pytest.approx(float(np.median(ratios)))
    assert found["low"] < found["ratio"] < found["high"]
    assert found["high"] - found["low"] < 0.03
    same = interval(np.full(10, 1.5))
    assert same == {"ratio": 1.5, "low": 1.5, "high": 1.5}


def test_a_small_trace_of_the_scale_benchmark_is_read_correctly(tmp_path):
    energy_scale.write(tmp_path, 5000)
    found = energy_scale.measure(tmp_path, 5000, 20)
    assert found["largest_error_pct"] < 0.5
    assert found["peak_bytes"] > 0
