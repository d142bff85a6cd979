"""Meters while commands run, and as the other side of a calibration."""

import json
import math
import os
import sys
import time
from pathlib import Path

import pytest
from fake_meters import constant, served, shelly_second, square, tasmota
from following_gpu import START, WAVE
from measured_runs import joulelab

HERE = Path(__file__).parent


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def configure(home, **meters):
    lines = [
        f'[{name}]\nkind = "{kind}"\naddress = "{address}"\n{more}\n'
        for name, (kind, address, more) in meters.items()
    ]
    (home / "sensors.toml").write_text("\n".join(lines))


def test_a_run_measures_a_plug_and_names_what_fails(home, tmp_path):
    with (
        served(tasmota, constant(123.0), auth="admin:geheim") as plug,
        served(tasmota) as silent,
    ):
        silent.fault = "hang"
        configure(
            home,
            desk=("tasmota", plug.address, 'user = "admin"\npassword_env = "PLUG_PASSWORD"'),
            silent=("tasmota", silent.address, "timeout_s = 0.5"),
            broken=("tasmota", "x:99999", ""),
        )
        script = "import time; time.sleep(3.0); print('done'); raise SystemExit(7)"
        out = tmp_path / "run"
        command = ("run", "--out", str(out), "--", sys.executable, "-c", script)
        variables = {"JOULELAB_SENSORS": "plug,host", "PLUG_PASSWORD": "geheim"}
        done = joulelab(*command, home=home, **variables)
    assert (done.returncode, done.stdout) == (7, "done\n")
    record = json.loads((out / "run.json").read_text())
    part = record["energy"]["components"]["plug:desk"]
    truth_j = 123.0 * record["duration_s"]
    assert part["gross_j"] == pytest.approx(truth_j, rel=0.03)
    assert record["duration_s"] < 30
    absent = record["energy"]["absent"]
    assert "no answer within 0.5 s" in absent["plug:silent"]
    assert "[broken] is wrong" in absent["plug:broken"]
    # At the start, and in the summary.
    assert done.stderr.startswith("joulelab: ")
    assert done.stderr.count("[broken] is wrong") == 2
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"geheim" not in written + done.stderr.encode()


def test_a_sensor_is_calibrated_against_a_live_meter(home, tmp_path):
    with served(shelly_second, square(*WAVE), update_s=0.1) as plug:
        configure(home, desk=("shelly", plug.address, "interval_s = 0.1"))
        out = tmp_path / "board.json"
        done = joulelab(
            *("calibrate", "--meter", "plug:desk", "--duration", "6", "--out", str(out)),
            home=home,
            JOULELAB_SENSORS="plug,following_gpu:FollowingGpu",
            PYTHONPATH=os.pathsep.join((str(HERE), str(HERE.parent / "sensors"))),
            **{START: str(plug.start_s)},
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(out.read_text())
        assert found["gain"] == pytest.approx(0.95, abs=0.03)
        assert math.isclose(found["offset_w"], 4.0, abs_tol=6.0)
        assert "measures more than the board" in done.stdout


def test_a_meter_that_is_not_there_is_named(home, refused, monkeypatch):
    monkeypatch.setenv("JOULELAB_HOME", str(home))
    slept_s = []
    monkeypatch.setattr(time, "sleep", slept_s.append)
    monkeypatch.setenv("JOULELAB_SENSORS", "host")
    assert "there is no meter 'plug:desk': power is read of nothing; add it" in refused(
        "calibrate", "--meter", "plug:desk", "--board", "GPU-1", "--duration", "77"
    )
    assert 77 not in slept_s, "it is not there before the recording either"
