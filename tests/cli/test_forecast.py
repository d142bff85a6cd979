"""``joulelab forecast`` as a user runs it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from joulelab import Meter
from joulelab.forecast.sources import _of_study_run
from joulelab.runs.selection import open_run
from joulelab.sensors.simulated import SimulatedMachine

STUDY = Path(__file__).parents[1] / "golden" / "inputs" / "studies" / "small-batches"
EPOCHS = """epoch,duration_s,gross_j
0,12,3000
1,10,2500
2,10.1,2520
3,9.9,2480
"""


@pytest.fixture
def forecast_of(printed):
    """Runs ``joulelab forecast --json`` and returns what it printed."""

    def call(*arguments):
        return json.loads(printed("forecast", *arguments, "--json"))

    return call


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "epochs.csv"
        path.write_text(text)
        return path

    return write


def test_a_table_of_epochs(forecast_of, table):
    path = table(EPOCHS)
    forecast = forecast_of(path, "--epochs", 100)
    assert forecast["gross_j"] == pytest.approx(250_500, rel=0.02)
    assert forecast["gross_low_j"] < 250_500 < forecast["gross_high_j"]
    assert forecast["duration_low_s"] < 1002 < forecast["duration_high_s"]
    assert forecast["spent_fraction"] == pytest.approx(10_500 / forecast["gross_j"])
    assert forecast["startup"] == 1
    assert "carbon_g" not in forecast
    with_carbon = forecast_of(path, "--epochs", 100, "--intensity", 360)
    assert with_carbon["intensity_of"] == "360 g/kWh (given)"
    assert with_carbon["carbon_g"] == pytest.approx(with_carbon["gross_j"] / 1e4)
    assert with_carbon["carbon_low_g"] < with_carbon["carbon_g"] < with_carbon["carbon_high_g"]


def test_the_text_has_units_and_details(printed, table):
    out = printed("forecast", table(EPOCHS), "--epochs", 100, "--within", 0.5)
    first, *rest = out.splitlines()
    assert first.startswith("100 epochs: 25")
    assert " kJ (95 % CI " in first
    assert any("epochs measured" in line for line in rest)
    assert any("sure to 50.0 %" in line for line in rest)


def test_a_part_of_an_epoch_has_three_digits(printed, table):
    out = printed("forecast", table(EPOCHS), "--epochs", 8 / 3)
    assert out.startswith("2.67 epochs: ")


def test_carbon_and_cost_are_as_undetermined_as_the_energy(forecast_of, run, table):
    path = table("epoch,duration_s,gross_j\n0,1,1\n1,1,1000000\n")
    options = (path, "--epochs", 100, "--intensity", 360, "--price", 0.2, "--currency", "EUR")
    code, out, _ = run("forecast", *options)
    assert code == 0
    assert out.startswith("100 epochs: cannot be determined from 2 epochs; at least ")
    assert "CO2e" not in out
    assert "EUR" not in out
    forecast = forecast_of(*options)
    unbounded = ("gross_high_j", "carbon_high_g", "price_high", "uncertainty")
    assert [forecast[name] for name in unbounded] == [None] * 4
    assert forecast["gross_low_j"] > 1_000_001


def test_negative_energies_are_refused(run, table):
    code, _, err = run(
        "forecast", table("epoch,duration_s,gross_j\n0,1,10\n1,1,-5\n"), "--epochs", 9
    )
    assert code == 2
    assert "has -5 J in epoch 1: a gross energy cannot be negative" in err


def test_phases_of_a_table(forecast_of, table):
    rows = "".join(
        f"{i};{10 + i % 2};{2500 + i};train\n" + (f"{i};2;300;validate\n" if i % 2 else "")
        for i in range(6)
    )
    forecast = forecast_of(table("epoch;duration_s;gross_j;phase\n" + rows), "--epochs", 50)
    counts = {phase["phase"]: phase["count"] for phase in forecast["phases"]}
    assert counts == {"epoch": 50, "validate": 25}


def test_a_target_accuracy(forecast_of, printed, table):
    rows = "".join(f"{i},10,2500,{90 - 40 / (i + 1)}\n" for i in range(8))
    path = table("epoch,duration_s,gross_j,accuracy_pct\n" + rows)
    reached = forecast_of(path, "--target-accuracy", 88)
    assert reached["epochs"] == pytest.approx(20, abs=1)
    assert reached["epochs_low"] <= reached["epochs"] <= reached["epochs_high"]
    assert reached["gross_low_j"] < 50_000 < reached["gross_high_j"]
    out = printed("forecast", path, "--target-accuracy", 88)
    assert out.startswith("88 % after 20 epochs (95 % CI 20–21); 20 epochs: ")
    out = printed("forecast", path, "--target-accuracy", 95)
    assert out.startswith("no forecast yet: the learning curve levels off at 90.0 %")
    unknown = forecast_of(path, "--target-accuracy", 95)
    assert unknown["gross_j"] is None
    assert "levels off" in unknown["reason"]


def test_the_directory_of_a_meter(forecast_of, tmp_path):
    with Meter(sensors=SimulatedMachine.default(), directory=tmp_path / "run") as meter:
        for i in range(3):
            with meter.span("epoch", index=i):
                sum(range(200_000))
    forecast = forecast_of(tmp_path / "run", "--epochs", 30)
    assert forecast["epochs_seen"] == 3
    assert forecast["gross_low_j"] < forecast["gross_j"] < forecast["gross_high_j"]


def test_a_run_of_a_study(forecast_of, refused):
    measured = open_run(STUDY / "runs" / "r0-tiny-models-linear-b16-399c")
    forecast = forecast_of(measured.directory, "--epochs", 30)
    assert forecast["epochs_seen"] == 3
    counts = {phase["phase"]: phase["count"] for phase in forecast["phases"]}
    assert counts == {"epoch": 30, "validate": 30}
    again = forecast_of(measured.directory, "--epochs", 3)
    trained_j = measured.study.results["train"].energy.gross_j
    assert again["phases"][0]["gross_j"] == pytest.approx(trained_j)
    assert forecast_of(measured.directory, "--epochs", 9, "--phase", "infer")["startup"] >= 0
    assert "is a study" in refused("forecast", STUDY, "--epochs", 30)


def test_an_incomplete_epoch_counts_by_its_samples():
    study = open_run(STUDY / "runs" / "r0-tiny-models-linear-b16-399c").study
    values = {"samples": 192, "accuracy_pct": None}
    epoch = replace(study.epochs[0], complete=False, values=values)
    only_one = replace(study, epochs=(epoch,), spans=study.spans_of("train", 0))
    profile = _of_study_run(only_one, None).profile
    assert profile.epochs_seen == 0.75
    assert profile.forecast(30).spent_fraction == pytest.approx(0.75 / 30)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (EPOCHS, [], "either --epochs or --target-accuracy"),
        (EPOCHS, ["--epochs", "0"], "--epochs"),
        (EPOCHS, ["--epochs", "ten"], "--epochs"),
        (EPOCHS, ["--epochs", "9", "--pue", "0.5"], "PUE"),
        ("epoch,duration_s\n0,1\n", ["--epochs", "9"], "no column gross_j"),
        ("epoch,duration_s,gross_j\n", ["--epochs", "9"], "no epoch was measured"),
        ("epoch,duration_s,gross_j\n0,0,5\n", ["--epochs", "9"], "duration"),
        ("epoch,duration_s,gross_j\n0,x,5\n", ["--epochs", "9"], "duration"),
        (EPOCHS + "0,10,2500\n", ["--epochs", "9"], "epoch 0 twice"),
        ("", ["--epochs", "9"], "no data"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(refused, table, text, options, message):
    assert message in refused("forecast", table(text), *options)


def test_a_directory_that_is_not_a_run(refused, tmp_path):
    assert "is not a run" in refused("forecast", tmp_path, "--epochs", 3)


def test_energy_that_was_not_measured_is_null(forecast_of, table):
    forecast = forecast_of(table("epoch,duration_s,gross_j\n0,10,\n1,11,\n2,10,\n"), "--epochs", 10)
    assert forecast["gross_j"] is None
    assert forecast["duration_s"] == pytest.approx(103, abs=3)


def test_a_run_on_a_busy_machine_has_a_caveat(run, synthetic, tmp_path):
    writer = synthetic.Writer(tmp_path / "s", models=["LeNet", "VGG16"])
    writer.idle(0, "before")
    for model, change in (("LeNet", None), ("VGG16", synthetic.disturb)):
        writer.cell(model, 0, change=change)
    code, _, err = run("forecast", tmp_path / "s" / "runs" / "r0-vgg16", "--epochs", 100)
    assert code == 0
    assert "measured on a busy machine: other processes (make) also used the CPU" in err
    assert run("forecast", tmp_path / "s" / "runs" / "r0-lenet", "--epochs", 100)[2] == ""


def test_thousands_are_not_decimals(run, table):
    rows = [(900, 1250), (910, 1260), (905, 1255), (902, 1252)]
    plain, quoted = (
        "epoch,duration_s,gross_j\n"
        + "".join(f'{i},{a},"{b:{form}}"\n' for i, (a, b) in enumerate(rows))
        for form in ("d", ",d")
    )
    quoted = quoted.replace('"1,252"', '"900"')
    plain = plain.replace('"1252"', "900")
    found = [run("forecast", table(text), "--epochs", "9", "--json") for text in (plain, quoted)]
    assert found[0] == found[1]
    assert found[0][0] == 0
