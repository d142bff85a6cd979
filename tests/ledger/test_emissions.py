"""``emissions.csv``: the format of CodeCarbon, written and read back."""

import csv
import json
from dataclasses import replace

import pytest
from energy_parts import component_energy
from measured_runs import joulelab

from joulelab.carbon.costs import J_PER_KWH
from joulelab.energy.attribution import Share
from joulelab.energy.energy import Energy
from joulelab.ledger.emissions import COLUMNS
from joulelab.logs.power_log import LogOptions, read_logs
from joulelab.logs.span_energies import ImportedSpan, energy_rows


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_back(path):
    """Energies by component of each run, as our reader of CodeCarbon's logs finds them."""
    log = read_logs([path], LogOptions())
    spans = [ImportedSpan(*run) for run in log.runs]
    return [
        {name: part["gross_j"] for name, part in row["components"].items()}
        for row in energy_rows(log, spans)
    ]


@pytest.fixture
def written(tmp_path, printed):
    """A function that adds the runs to a file, and returns its path."""

    def write(*options):
        path = tmp_path / "emissions.csv"
        printed("ledger", tmp_path / "runs", *options, "--emissions", path)
        return path

    return write


def test_a_measured_command_has_the_same_energy_after_a_round_trip(tmp_path, printed):
    run = ["run", "--sensors", "simulated", "--wait", "--project", "digits", "--", "sleep", "0.5"]
    assert joulelab(*run).returncode == 0
    path = tmp_path / "emissions.csv"
    ledger = ["ledger", "latest", "--emissions", path, "--country", "FR", "--pue", "1.5", "--json"]
    total = json.loads(printed(*ledger))["total"]
    [row] = rows_of(path)
    assert list(row) == list(COLUMNS)
    assert row["project_name"] == "digits"
    assert (row["country_name"], row["country_iso_code"]) == ("France", "FRA")
    assert float(row["energy_consumed"]) * J_PER_KWH == pytest.approx(1.5 * total["gross_j"])
    assert float(row["emissions"]) * 1000 == pytest.approx(total["carbon_g"])
    assert float(row["emissions_rate"]) * 1000 == pytest.approx(
        total["carbon_g"] / total["duration_s"]
    )
    [span] = json.loads(printed("import", "--power", path, "--json"))
    assert span["name"] == "digits"
    assert span["gross_j"] == pytest.approx(total["gross_j"], rel=1e-6)
    assert span["duration_s"] == pytest.approx(total["duration_s"], rel=1e-6)


def test_each_component_returns_with_its_energy_and_power(tmp_path, run_record, written):
    joules = {"gpu:0": 5000.0, "cpu:0": 2000.0, "dram:0": 300.0}
    parts = {name: component_energy(name, one, duration_s=100.0) for name, one in joules.items()}
    run_record(tmp_path / "runs" / "a", Energy(duration_s=100.0, components=parts))
    run_record(tmp_path / "runs" / "b", 700.0, began="2026-11-02T14:00+00:00")
    path = written()
    first, second = rows_of(path)
    assert [float(first[f"{name}_power"]) for name in ("gpu", "cpu", "ram")] == [50.0, 20.0, 3.0]
    found = read_back(path)
    assert found[0] == pytest.approx({"cpu:0": 2000.0, "gpu": 5000.0, "dram:0": 300.0}, rel=1e-6)
    assert found[1]["gpu"] == pytest.approx(700.0, rel=1e-6)
    # Not measured, or not known: empty, never 0.
    unknown = ("cpu_energy", "ram_power", "emissions", "country_name", "water_consumed", "on_cloud")
    assert [second[name] for name in unknown] == [""] * len(unknown)
    assert "0" not in second.values()


def test_an_energy_of_a_whole_node_has_no_parts(tmp_path, run_record, make_energy, written):
    run_record(tmp_path / "runs" / "a", make_energy(900.0, component="node"))
    path = written()
    [row] = rows_of(path)
    assert (row["cpu_energy"], row["gpu_energy"], row["ram_energy"]) == ("", "", "")
    assert read_back(path) == [{"node": pytest.approx(900.0, rel=1e-6)}]


def test_runs_are_added_once_and_rows_of_other_tools_stay(tmp_path, run_record, written):
    path = tmp_path / "emissions.csv"
    others = (
        "timestamp,run_id,duration,energy_consumed,longitude\n2026-01-01T00:00:00,x,9,1,-71.2\n"
    )
    path.write_text(others)
    run_record(tmp_path / "runs" / "a", 3600.0)
    for _ in range(2):
        written()
    assert path.read_bytes().startswith(others.encode("latin-1"))
    first, second = csv.DictReader(path.read_text("latin-1").splitlines())
    assert first["longitude"] == "-71.2"
    assert float(second["energy_consumed"]) == pytest.approx(0.001)
    assert list(second) == ["timestamp", "run_id", "duration", "energy_consumed", "longitude"]


def test_another_file_is_not_overwritten(tmp_path, run_record, refused):
    path = tmp_path / "results.csv"
    path.write_text("model,gross_j\nLeNet,1\n")
    run_record(tmp_path / "runs" / "a", 3600.0)
    error = refused("ledger", tmp_path / "runs", "--emissions", path)
    assert "is not an emissions.csv" in error
    assert path.read_text() == "model,gross_j\nLeNet,1\n"


def test_unmeasured_runs_have_no_row_and_formulas_are_text(tmp_path, run_record, written):
    run_record(tmp_path / "runs" / "a", Energy(duration_s=100.0, components={}))
    run_record(tmp_path / "runs" / "b", 1.0, project="=1+1")
    assert [row["project_name"] for row in rows_of(written())] == ["'=1+1"]


def test_own_shares_are_marked_as_such(tmp_path, run_record, make_energy, written):
    energy = make_energy(1000.0)
    share = Share(fraction=0.25, low=0.2, high=0.3, method="CPU time")
    part = replace(energy.components["gpu:0"], idle_j=200.0, share=share)
    assert 0 < part.job_j < 1000
    run_record(tmp_path / "runs" / "a", replace(energy, components={"gpu:0": part}))
    [row] = rows_of(written("--own-share"))
    assert row["tracking_mode"] == "process"
    assert float(row["gpu_energy"]) * J_PER_KWH == pytest.approx(part.job_j)
