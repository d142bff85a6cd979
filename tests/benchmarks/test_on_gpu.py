"""The script for GPU machines: its budget, its failures and its tables, without a GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.on_gpu_checks import agreement

from benchmarks import on_gpu, on_gpu_checks, on_gpu_table, standin
from joulelab.predict import load_profile
from joulelab.sensors.discovery import ENVIRONMENT as SENSORS_ENVIRONMENT
from joulelab.sensors.simulated import Waveform

SCRIPT = Path(on_gpu.__file__).with_suffix(".sh")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the stand-in")
def test_the_script_runs_on_the_stand_in(tmp_path):
    library = standin.build(tmp_path / "library")
    waveform = standin.write(tmp_path / "waveform.txt", Waveform.constant(350))
    environment = standin.environment(library, waveform) | {"PYTHON": sys.executable}
    environment.pop("OUT", None)
    done = subprocess.run(
        ["bash", SCRIPT, "--seconds", "60", "--only", "sensors", "--out", tmp_path],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [report] = tmp_path.glob("*-on-gpu-*.json")
    [check] = json.loads(report.read_text())["checks"]
    assert check["state"] == "passed"
    assert {"gpu:0"} < {one["component"] for one in check["result"]["sensors"]}
    assert "| sensors | passed |" in done.stdout
    assert report.with_suffix(".md").read_text() in done.stdout


def test_without_a_gpu_nothing_runs(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        ["bash", SCRIPT, "--out", tmp_path],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "there is no NVIDIA GPU" not in done.stderr:
        pytest.skip("this machine has a GPU")
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch, capsys):
    monkeypatch.setitem(on_gpu.CORE, "no_such_module", "no-such-package")
    assert on_gpu.main([]) == 2
    shown = capsys.readouterr().err
    assert "missing packages: no-such-package;" in shown
    assert "pip download" in shown
    assert "WHEELS=wheels" in shown


def test_a_check_that_fails_or_hangs_has_a_reason(tmp_path, monkeypatch):
    failed = on_gpu.run(on_gpu.Check("nonsense", "", 1), 1, 60, tmp_path)
    assert (failed.state, failed.reason) == ("failed", "KeyError: 'nonsense'")
    assert "Traceback" in failed.result["log"]
    monkeypatch.setattr(on_gpu, "START_S", 0.0)
    monkeypatch.setattr(on_gpu, "MOST_START_S", 0.0)
    hanging = on_gpu.run(on_gpu.Check("sensors", "", 1), 0.01, 0.01, tmp_path)
    assert hanging.state == "failed"
    assert hanging.reason.startswith("it took longer than")
    late = on_gpu.run(on_gpu.Check("sensors", "", 1), 10, 1, tmp_path)
    assert (late.state, late.reason) == ("not run", "no time was left")
    packages = {"no_such_module": "no-such-package"}
    lacking = on_gpu.run(on_gpu.Check("sensors", "", 1, packages), 1, 60, tmp_path)
    assert lacking.state == "not run"
    assert "no-such-package" in lacking.reason


def test_a_check_whose_time_is_over_reports_what_it_did(tmp_path, monkeypatch):
    monkeypatch.setenv(SENSORS_ENVIRONMENT, "simulated")
    monkeypatch.chdir(tmp_path)
    load_profile("h100").save(tmp_path / on_gpu_checks.PROFILE)
    saved = {}
    monkeypatch.setattr(on_gpu_checks, "LAST_START_SHARE", -1.0)
    on_gpu_checks.predictions(1.0, saved.update)
    assert saved["rows"] == []
    assert saved["note"] == "0 of 2 steps in the time"


@pytest.mark.parametrize("gain", [1.0, 0.97])
def test_the_agreement_of_ring_and_counter_is_their_gain(gain):
    stamps_s = 0.013 + 0.02 * np.arange(500)
    powers_w = 350.0 + 250.0 * np.sign(np.sin(2 * np.pi * (stamps_s - 0.013) / 0.2 - 0.1))
    true_j = np.append(0.0, np.cumsum(powers_w[1:] * np.diff(stamps_s)))
    readings_s = 1.0 + 0.024 * np.arange(330)
    # The counter shows what it had at the last multiple of 100 ms.
    counter_j = np.interp(np.floor(readings_s * 10) / 10, stamps_s, true_j)
    found = agreement(
        list(zip(stamps_s, gain * powers_w, strict=True)),
        list(zip(readings_s, counter_j, strict=True)),
    )
    assert found["windows"] == 3
    assert found["median_pct"] == pytest.approx(100 * (gain - 1), abs=0.5)


def test_every_check_has_a_summary_and_the_details_are_tables():
    predicted = {
        "model": "LeNet", "phase": "train", "batch_size": 8,
        "energy_per_step_j": 2.1, "measured_energy_per_step_j": 2.0,
        "seconds_per_step": 0.19, "measured_seconds_per_step": 0.2,
    }  # fmt: skip
    errors = {
        f"{what}_{name}_pct": 5.0
        for what in ("energy", "duration")
        for name in ("median", "p90", "covered")
    }
    results = {
        "sensors": {"sensors": [{"source": "nvml.samples"}]},
        "processes": {"lists_own_pid": False, "device_window": True},
        "ring": {"rows": [{"load": "steady", "median_pct": 1, "least_pct": 0, "most_pct": None}]},
        "windows": {
            "rows": [
                {
                    "case": "real: steady load", "window_s": 0.1, "given": 3, "count": 4,
                    "median_pct": 1.5, "p90_pct": 3.0, "bias_pct": -0.5,
                }
            ]
        },
        "slowdown": {
            "ratios": {"recording": {"ratio": 1.01, "low": 0.99, "high": 1.03}},
            "costs_us": {"make an event": 1.234},
        },
        "torchrun": {"ranks": [{"gross_j": 10.0, "duration_s": 1.0}] * 2},
        "doctor": {"exit_code": 0},
        "calibrate": {"output": "GPU: 30 steps\nerror: 5 %\nprofile written\n"},
        "predictions": {"rows": [predicted], **errors},
        "language": {
            "rows": [
                {
                    "model": "lm:llama-3.2-1b", "phase": "decode", "batch_size": 4,
                    "gross_j_per_token": 0.21, "net_j_per_token": 0.15, "mean_power_w": 240.0,
                    "duration_s_per_token": 0.002,
                }
            ]
        },
    }  # fmt: skip
    assert set(results) == {check.name for check in on_gpu.CHECKS}
    checks = [
        {"name": name, "state": "passed", "seconds": 1.0, "reason": "", "result": result}
        for name, result in results.items()
    ]
    checks[-1]["reason"] = "3 of 4 batch sizes in the time"
    text = on_gpu_table.markdown({"about": {"GPU": "a GPU"}, "checks": checks})
    assert "1.0100 (0.9900–1.0300); make an event: 1.23 µs |" in text
    assert "3 of 4 batch sizes in the time; gross energy per token: decode from 0.210 J" in text
    assert "| real: steady load | 100 ms | 3 of 4 | 1.50 % | 3.00 % | -0.50 % |" in text
    assert "| LeNet | train | 8 | 2.00 J | 200 ms | +5.00 % | -5.00 % |" in text
    assert "| lm:llama-3.2-1b | decode | 4 | 0.210 J | 0.150 J | 240 W | 500 |" in text
