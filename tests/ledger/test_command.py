"""``joulelab ledger`` on invented records."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from measured_runs import joulelab

from joulelab.energy.attribution import Share
from joulelab.energy.data_exchange import DataExchange, DataVolume
from joulelab.energy.energy import Energy
from joulelab.ledger.model_energy import read_model, request_energy, training_energy
from joulelab.runs.selection import open_runs
from joulelab.sensors.sensor import DataPlace, Quantity


def test_this_week_compared_with_last_week(tmp_path, run_record, monkeypatch, printed):
    saved = tmp_path / "home" / "runs"
    run_record(saved / "last", 1.8e6, began="2026-11-10T00:00Z", phase="train")
    run_record(saved / "this", 3.6e6, began="2026-11-17T00:00Z", phase="train")
    out = printed("ledger", "--by", "week", "--country", "DE", "--price", "0.3",
        "--currency", "EUR")  # fmt: skip
    for words in ("3,600 kJ", "+100 %", "2026-W47", "0.300 EUR", "330 g", "Germany, mean of 2025"):
        assert words in out
    # No terminal, and narrow: nothing is cut off.
    monkeypatch.setenv("COLUMNS", "50")
    narrow = printed("ledger", "--by", "week", "--country", "DE", "--price", "0.3", "--currency",
        "EUR")  # fmt: skip
    assert "…" not in narrow
    assert "0.300 EUR" in narrow


HOSTILE_NAMES = [
    "eval [/data/val]",
    "[bold]x[/bold]",
    "red \x1b[31m",
    "\x1b]0;title\x07",
    "a\u202eb",
]


@pytest.mark.parametrize("by", ["command", "project", "host"])
def test_names_are_shown_as_they_are_and_never_reach_the_terminal_as_commands(
    tmp_path, run_record, run, by
):
    for number, name in enumerate(HOSTILE_NAMES):
        run_record(tmp_path / str(number), 3.6e6, name=name, project=name, host=name)
    code, out, err = run("ledger", tmp_path, "--by", by)
    assert code == 0, err
    assert "eval [/data/val]" in out
    assert "[bold]x[/bold]" in out
    assert r"red \x1b[31m" in out
    assert "\x1b" not in out + err
    assert "\u202e" not in out


def test_carbon_is_weighted_with_the_intensities_of_its_time(tmp_path, printed):
    ran = joulelab("run", "--sensors", "simulated", "--wait", "--", "sleep", "1")
    assert ran.returncode == 0, ran.stderr
    (record,) = open_runs()
    middle_s = (record.started_unix_s + record.ended_unix_s) / 2
    steps = {middle_s - 1000: 900, middle_s: 100, middle_s + 1000: 0}
    rows = [f"{datetime.fromtimestamp(t, UTC).isoformat()},{value}" for t, value in steps.items()]
    (tmp_path / "grid.csv").write_text("time,g_per_kwh\n" + "\n".join(rows) + "\n")
    ledger = json.loads(printed("ledger", "--intensity-file", tmp_path / "grid.csv", "--json"))
    assert "weighted by energy" in ledger["sources"][0]
    assert 100 < ledger["total"]["carbon_g"] / ledger["total"]["gross_kwh"] < 900


def test_json_and_csv_have_the_same_rows(tmp_path, run_record, printed):
    run_record(tmp_path / "jobs" / "one", 3.6e6, phase="train")
    run_record(tmp_path / "jobs" / "two", 1.2e6)
    out = tmp_path / "rows.csv"
    ledger = json.loads(printed("ledger", tmp_path / "jobs", "--json", "--csv", out))
    assert [row["key"] for row in ledger["rows"]] == ["train", "untagged"]
    assert ledger["total"]["gross_j"] == pytest.approx(4.8e6)
    assert ledger["total"]["carbon_g"] is None
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["gross_j"]) == pytest.approx(3.6e6)
    assert rows[0]["carbon_g"] == ""


def test_an_empty_ledger_explains_how_to_begin(printed):
    assert "joulelab run" in printed("ledger")
    assert "no runs match" in printed("ledger", "--project", "x")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["nowhere"], "no saved run of that name"),
        (["--since", "yesterday"], "2026-11-01"),
        (["--by", "weak"], "week"),
        (["break-even", "a", "b"], "is not a number, a run or a study"),
        (["break-even", "5", "6"], "a single value"),
        (["tag", "."], "--phase"),
        (["inference", "--requests-per-day", "10", "--energy-per-request", "-1"], "0 or more"),
    ],
)
def test_errors_are_one_line(arguments, hint, refused):
    assert hint in refused("ledger", *arguments)


def test_break_even_of_runs(tmp_path, run_record, request_spans, printed):
    run_record(tmp_path / "train-a", 1e6)
    run_record(tmp_path / "train-b", 3e6)
    run_record(tmp_path / "serve-a", 2000.0, tags={"samples": "1000"})
    span = request_spans(1000, 1000.0, 900.0, 1100.0)
    run_record(tmp_path / "serve-b", 1200.0, spans=(span,))
    out = printed(
        "ledger", "break-even", f"small={tmp_path}/train-a,{tmp_path}/serve-a",
        f"large={tmp_path}/train-b,{tmp_path}/serve-b", "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert found["requests"] == pytest.approx(2e6)
    assert found["requests_low"] < 2e6 < found["requests_high"]
    assert [one["efficient"] for one in found["ranges"]] == ["small", None, "large"]
    assert all(model["simulated"] for model in found["models"])


def test_request_spans_have_the_uncertainty_of_their_record(tmp_path, run_record, request_spans):
    span = request_spans(10, 1000.0, 800.0, 1200.0)
    path = run_record(tmp_path / "serve", 1200.0, spans=(span,))
    assert request_energy(str(path)).interval == pytest.approx((80.0, 120.0))


def test_a_study_gives_both_energies_and_the_scatter_of_its_repeats(tmp_path, synthetic):
    study = synthetic.Writer(tmp_path / "study", models=["LeNet", "VGG16"], repeats=3)
    for block, stretch in enumerate((0.8, 1.0, 1.2)):
        study.cell("LeNet", block, stretch=stretch)
        study.cell("VGG16", block)
    one = read_model(f"{tmp_path}/study:LeNet")
    results = [
        json.loads((tmp_path / "study" / "runs" / f"r{block}-lenet" / "run.json").read_text())
        for block in range(3)
    ]
    trained = [run["results"]["train"]["energy"]["gross_j"] for run in results]
    assert one.training.value == pytest.approx(sum(trained) / 3)
    # Student's t of two degrees of freedom, 4.303, on a standard error of 0.2 / sqrt(3).
    half = one.training.own * 1.959964
    assert half == pytest.approx(4.3027 * 0.2 / 3**0.5 * one.training.value, rel=1e-3)
    infer = results[1]["results"]["infer"]
    assert one.per_request.value == pytest.approx(infer["energy"]["gross_j"] / infer["samples"])


def test_a_study_of_several_models_asks_which(tmp_path, synthetic, refused):
    study = synthetic.Writer(tmp_path / "study", models=["LeNet", "VGG16"])
    study.cell("LeNet", 0)
    study.cell("VGG16", 0)
    vgg61, lenet = f"{tmp_path}/study:VGG61", f"{tmp_path}/study:LeNet"
    assert "they differ in model" in refused("ledger", "break-even", tmp_path / "study", vgg61)
    assert "did you mean VGG16?" in refused("ledger", "break-even", vgg61, lenet)


def test_inference_against_the_training_of_the_ledger(tmp_path, run_record, printed):
    run_record(tmp_path / "home" / "runs" / "one", 3.6e6, phase="train", project="digits")
    assert training_energy("3.6e6").value == 3.6e6
    arguments = ("ledger", "inference", "--requests-per-day", "1e6", "--energy-per-request", "0.5")
    found = json.loads(printed(*arguments, "--project", "digits", "--json"))
    assert found["day_j"] == pytest.approx(5e5)
    assert found["days_to_training"] == pytest.approx(7.2)
    assert found["days_low_to_training"] < 7.2 < found["days_high_to_training"]
    assert "training   unknown" in printed(*arguments, "--project", "other")


def test_tags_are_written_and_counted(tmp_path, run_record, printed):
    path = run_record(tmp_path / "home" / "runs" / "one", 1000.0)
    printed("ledger", "tag", path, "--phase", "data", "--project", "p")
    assert "data" in printed("ledger", "--project", "p")


def test_the_core_install_is_enough(tmp_path, run_record, synthetic):
    run_record(tmp_path / "all" / "one", 1000.0)
    study = synthetic.Writer(tmp_path / "all" / "study", models=["LeNet"])
    study.cell("LeNet", 0)
    blocked = ("torch", "pandas", "scipy", "pydantic", "pyarrow", "altair")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"from joulelab.cli.app import main; main(['ledger', {str(tmp_path / 'all')!r}])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "2 records" in result.stdout


def test_no_value_is_cut_and_none_is_impossible(tmp_path, run_record, make_energy, monkeypatch,
                                                printed):  # fmt: skip
    """In a pipe and on narrow terminals; an own share is within what its machine used."""
    shared = make_energy(40.0)
    part = replace(
        shared.components["gpu:0"],
        idle_j=20.0,
        idle_uncertainty_j=8.0,
        share=Share(fraction=0.3, low=0.05, high=0.9, method="CPU time"),
    )
    shared = replace(shared, components={"gpu:0": part})
    runs = tmp_path / "runs"
    long = ("python", "train.py", "--config", "configs/of/some/length/experiment.yaml")
    run_record(runs / "long", 1.2345e9, command=long)
    run_record(runs / "small", make_energy(0.02, edge_j=0.02), command=("python", "small.py"))
    run_record(runs / "shared", shared, command=("python", "shared.py"))
    run_record(runs / "unmeasured", Energy(duration_s=1.0), command=("ls",))
    arguments = ("ledger", runs, "--by", "command", "--country", "DE", "--price", "0.3",
        "--currency", "EUR")  # fmt: skip
    wide = printed(*arguments)
    (line,) = (one for one in wide.splitlines() if one.startswith(" python train.py"))
    for words in (" ".join(long), "1,234 MJ", "100 %", "113 kg", "102.87 EUR"):
        assert words in line
    (line,) = (one for one in wide.splitlines() if one.startswith(" python small.py"))
    for words in ("20.0 mJ", "1.83 µg", "< 0.0001 EUR"):
        assert words in line
    assert "(0.0–59.2 mJ)" in wide
    (line,) = (one for one in wide.splitlines() if one.startswith(" ls"))
    assert "%" not in line
    assert "about 12.0 J (95 % CI 0.2–39.5 J) of 40.0 J is their own share" in wide
    monkeypatch.setenv("COLUMNS", "40")
    narrow = printed(*arguments)
    assert "…" not in narrow
    for words in ("102.87 EUR", "< 0.0001 EUR", "113 kg", "1,234 MJ", "1.83 µg"):
        assert words in narrow


def test_sources_are_given_once_and_exact_values_have_no_interval(printed):
    text = printed("ledger", "inference", "--requests-per-day", "20000", "--energy-per-request",
        "0.1", "--training", "90000", "--country", "DE")  # fmt: skip
    assert text.count("Ember") == 1
    assert text.count("CO2e") == 3
    assert text.endswith("exceeded by inference after 45.0 days\n")


def test_a_page_next_to_the_printed_ledger(tmp_path, run_record, printed, refused):
    run_record(tmp_path / "runs" / "a", 3.6e6, phase="train")
    path = tmp_path / "ledger.html"
    arguments = ("ledger", tmp_path / "runs", "--html", path)
    for text in (printed(*arguments), path.read_text()):
        assert "3,600 kJ (95 % CI 3,247–3,953 kJ)" in text
    refused(*arguments, "--project", "none")


def test_computation_next_to_data_exchange(tmp_path, run_record, printed):
    volumes = {
        (DataPlace.NETWORK, Quantity.RECEIVED): DataVolume(100e9, 100e9, 100e9),
        (DataPlace.LOOPBACK, Quantity.SENT): DataVolume(9e12, 9e12, 9e12),
    }
    run_record(tmp_path / "data", 1e6, phase="data", exchanged=DataExchange(volumes))
    run_record(tmp_path / "train", 2e6, phase="train")
    out = printed("ledger", tmp_path, "--by", "phase")
    (row,) = (line for line in out.splitlines() if "100 GB" in line)
    # 0.03 kWh/GB, between 0.0065 and 0.06.
    assert row.split() == ["data", "1,000", "kJ", "100", "GB", "10.8", "MJ", "(2.3–21.6", "MJ)"]
    assert "derived from published values" in out
    assert "360 kJ" in printed("ledger", tmp_path, "--by", "phase", "--network", "core")
    printed("ledger", tmp_path, "--by", "phase", "--html", tmp_path / "ledger.html")
    assert "data exchange by phase" in (tmp_path / "ledger.html").read_text()
