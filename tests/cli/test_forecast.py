"""``joulelab forecast`` as a user runs it."""

import json
import subprocess
import sys

import pytest

from joulelab import Meter
from joulelab.runs.store import Store
from joulelab.sensors.simulated import SimulatedMachine
from joulelab.study.plan import Plan
from joulelab.study.runner import run_study

EPOCHS = """epoch,duration_s,gross_j
0,12,3000
1,10,2500
2,10.1,2520
3,9.9,2480
"""


def joulelab(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "joulelab", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def figures(*arguments):
    done = joulelab(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def no_site(tmp_path, monkeypatch):
    """Whatever is kept on this machine."""
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "epochs.csv"
        path.write_text(text)
        return path

    return write


def test_a_table_of_epochs_is_enough(table):
    path = table(EPOCHS)
    forecast = figures("forecast", path, "--epochs", 100)
    assert forecast["gross_j"] == pytest.approx(250_500, rel=0.02)
    assert forecast["gross_low_j"] < 250_500 < forecast["gross_high_j"]
    assert forecast["duration_low_s"] < 1002 < forecast["duration_high_s"]
    assert forecast["spent_fraction"] == pytest.approx(10_500 / forecast["gross_j"])
    assert forecast["startup"] == 1
    assert "carbon_g" not in forecast
    with_carbon = figures("forecast", path, "--epochs", 100, "--carbon-intensity", 360)
    assert with_carbon["intensity_of"] == "360 g/kWh (given)"
    assert with_carbon["carbon_g"] == pytest.approx(with_carbon["gross_j"] / 1e4)
    assert with_carbon["carbon_low_g"] < with_carbon["carbon_g"] < with_carbon["carbon_high_g"]


def test_it_says_it_to_a_person_too(table):
    done = joulelab("forecast", table(EPOCHS), "--epochs", 100, "--within", 0.5)
    assert done.returncode == 0
    first, *rest = done.stdout.splitlines()
    assert first.startswith("100 epochs: 25")
    assert " kJ (" in first
    assert any("epochs seen" in line for line in rest)
    assert any("sure to 50 %" in line for line in rest)


def test_phases_of_a_table(table):
    rows = "".join(
        f"{i};{10 + i % 2};{2500 + i};train\n" + (f"{i};2;300;validate\n" if i % 2 else "")
        for i in range(6)
    )
    forecast = figures("forecast", table("epoch;duration_s;gross_j;phase\n" + rows), "--epochs", 50)
    counts = {phase["phase"]: phase["count"] for phase in forecast["phases"]}
    assert counts == {"epoch": 50, "validate": 25}


def test_a_target_accuracy(table):
    rows = "".join(f"{i},10,2500,{90 - 40 / (i + 1)}\n" for i in range(8))
    path = table("epoch,duration_s,gross_j,accuracy_pct\n" + rows)
    reached = figures("forecast", path, "--target-accuracy", 88)
    assert reached["epochs"] == pytest.approx(20, abs=1)
    assert reached["epochs_low"] <= reached["epochs"] <= reached["epochs_high"]
    assert reached["gross_low_j"] < 50_000 < reached["gross_high_j"]
    done = joulelab("forecast", path, "--target-accuracy", 95)
    assert done.returncode == 0
    assert done.stdout.startswith("cannot say yet: the learning curve levels off at 90.0 %")
    unknown = figures("forecast", path, "--target-accuracy", 95)
    assert unknown["gross_j"] is None
    assert "levels off" in unknown["reason"]


def test_a_meters_directory(tmp_path):
    with Meter(sensors=SimulatedMachine.default(), directory=tmp_path / "run") as meter:
        for i in range(3):
            with meter.span("epoch", index=i):
                sum(range(200_000))
    forecast = figures("forecast", tmp_path / "run", "--epochs", 30)
    assert forecast["epochs_seen"] == 3
    assert forecast["gross_low_j"] < forecast["gross_j"] < forecast["gross_high_j"]


def test_a_run_of_a_study(tmp_path):
    plan = Plan.model_validate(
        {
            "name": "small",
            "models": ["LeNet"],
            "idle_s": 0.0,
            "sensors": ["simulated"],
            "data": {"name": "synthetic", "train_count": 64, "test_count": 32},
            "factors": {"batch_size": [16]},
            "train": {"epochs": 3, "warmup_steps": 1},
            "infer": {"passes": 2, "warmup_steps": 1},
        }
    )
    run_study(tmp_path / "study", plan)
    (record,) = Store.open(tmp_path / "study").runs()
    trained = record.data["results"]["train"]["energy"]
    forecast = figures("forecast", record.directory, "--epochs", 30)
    assert forecast["epochs_seen"] == 3
    counts = {phase["phase"]: phase["count"] for phase in forecast["phases"]}
    assert counts == {"epoch": 30, "validate": 30}
    again = figures("forecast", record.directory, "--epochs", 3)
    assert again["phases"][0]["gross_j"] == pytest.approx(trained["gross_j"])
    assert figures("forecast", record.directory, "--epochs", 9, "--phase", "infer")["startup"] >= 0
    short = dict(record.data)
    first = next(epoch for epoch in short["epochs"] if epoch["phase"] == "train")
    short["epochs"] = [first | {"complete": False, "samples": 48}]
    kept = ("epoch", "train", 0)
    short["spans"] = [
        span
        for span in short["spans"]
        if (span["name"], span["attributes"]["phase"], span["attributes"].get("index")) == kept
    ]
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "run.json").write_text(json.dumps(short))
    cut = figures("forecast", tmp_path / "short", "--epochs", 30)
    assert cut["epochs_seen"] == 0.75
    assert cut["spent_fraction"] == pytest.approx(0.75 / 30)
    refused = joulelab("forecast", tmp_path / "study", "--epochs", 30)
    assert refused.returncode == 2
    assert record.run_id in refused.stderr


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (EPOCHS, [], "either --epochs or --target-accuracy"),
        (EPOCHS, ["--epochs", "0"], "--epochs"),
        (EPOCHS, ["--epochs", "ten"], "--epochs"),
        (EPOCHS, ["--epochs", "9", "--pue", "0.5"], "--pue"),
        ("epoch,duration_s\n0,1\n", ["--epochs", "9"], "no column gross_j"),
        ("epoch,duration_s,gross_j\n", ["--epochs", "9"], "no epoch was seen"),
        ("epoch,duration_s,gross_j\n0,0,5\n", ["--epochs", "9"], "duration"),
        ("epoch,duration_s,gross_j\n0,x,5\n", ["--epochs", "9"], "duration"),
        (EPOCHS + "0,10,2500\n", ["--epochs", "9"], "epoch 0 twice"),
        ("", ["--epochs", "9"], "holds no data"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(table, text, options, words):
    done = joulelab("forecast", table(text), *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_directory_that_is_no_run(tmp_path):
    done = joulelab("forecast", tmp_path, "--epochs", 3)
    assert done.returncode == 2
    assert "is no run" in done.stderr


def test_energy_that_was_not_measured_is_null(table):
    forecast = figures(
        "forecast", table("epoch,duration_s,gross_j\n0,10,\n1,11,\n2,10,\n"), "--epochs", 10
    )
    assert forecast["gross_j"] is None
    assert forecast["duration_s"] == pytest.approx(103, abs=3)
