"""A table of records adds up to what the records themselves add up to."""

import json
import math
import random

import pandas as pd
import pytest

from joulelab.carbon.site import save_site
from joulelab.energy.data_exchange import DataExchange, DataVolume
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.ledger import ledger
from joulelab.ledger.group import KEYS
from joulelab.ledger.ledger import read_ledger
from joulelab.report.ledger_page import energy_over_time
from joulelab.sensors.sensor import DataPlace, Quantity


def read(*paths, **options):
    errors = []
    found = read_ledger(paths, on_error=errors.append, **options)
    assert errors == []
    return found


def assert_equal(found, expected):
    """Compare what two ledgers print; top consumers by their energies."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9)
    else:
        assert found == expected


def exchanged(sent):
    volume = DataVolume(sent, 0.9 * sent, 1.1 * sent)
    return DataExchange({(DataPlace.NETWORK, Quantity.SENT): volume})


@pytest.fixture
def records(tmp_path, run_record, make_energy):
    """Sixty records of three hosts, over months, some overlapping, unmeasured or unfinished."""
    save_site(country="DE", price_per_kwh=0.3, currency="EUR")
    invented = random.Random(7)
    for i in range(60):
        month, day = 1 + i % 5, 1 + i % 27
        gpu = make_energy(invented.uniform(10, 5000), edge_j=invented.uniform(0, 9))
        cpu = make_energy(invented.uniform(10, 500), gain=0.1, component="cpu:0")
        components = {**gpu.components, **(cpu.components if i % 3 else {})}
        energy = Energy(duration_s=100.0, components=components if i % 13 else {})
        run_record(
            tmp_path / "runs" / f"r{i}",
            energy,
            began=f"2026-{month:02d}-{day:02d}T12:00+00:00",
            host=f"n{i % 3}",
            project=[None, "digits"][i % 2],
            phase=[None, "train", "infer"][i % 3],
            model=f"m{i % 4}",
            command=("python", f"{i % 6}.py"),
            status="failed" if i % 7 == 0 else "done",
            exchanged=exchanged(invented.uniform(0, 1e9)) if i % 4 else None,
        )
    return tmp_path / "runs"


@pytest.fixture
def table(records, tmp_path):
    """The table of the records."""
    path = tmp_path / "all.parquet"
    read(records, table_file=path)
    return path


@pytest.mark.parametrize("by", KEYS)
def test_a_table_adds_up_to_its_records(records, tmp_path, by):
    table = tmp_path / "all.parquet"
    written = read(records, by=by, table_file=table)
    expected = read(records, by=by).to_json()
    assert_equal(read(table, by=by).to_json(), expected)
    assert_equal(written.to_json(), expected)


@pytest.mark.parametrize(
    "selection", [{"project": "digits"}, {"phase": "untagged"}, {"phase": "train"}]
)
def test_a_part_of_a_table(records, table, selection):
    assert_equal(read(table, **selection).to_json(), read(records, **selection).to_json())


def test_days_of_a_table(records, table, printed):
    arguments = ["--since", "2026-02-03", "--until", "2026-03-10", "--by", "week", "--json"]
    of_table, of_records = (
        json.loads(printed("ledger", path, *arguments)) for path in (table, records)
    )
    assert 0 < of_records["total"]["records"] < 60
    assert_equal(of_table, of_records)


def test_records_next_to_a_table_are_added_and_copies_are_not(records, table, tmp_path, run_record):
    run_record(tmp_path / "more" / "new", 1000.0)
    found = read(table, records, tmp_path / "more", table, table_file=tmp_path / "second.parquet")
    assert found.total.records == 61
    assert "120 copies of records not counted" in found.warnings
    expected = read(records, tmp_path / "more").to_json()
    expected["warnings"].append("120 copies of records not counted")
    assert_equal(found.to_json(), expected)
    assert read(tmp_path / "second.parquet").total.records == 61


def test_overlaps_in_a_table_are_reported(tmp_path, run_record):
    for i in range(3):
        run_record(tmp_path / "runs" / f"r{i}", 100.0)
    read(tmp_path / "runs", table_file=tmp_path / "all.parquet")
    (warning,) = [one for one in read(tmp_path / "all.parquet").warnings if "overlapped" in one]
    assert "200 J too large" in warning


def test_an_empty_table(tmp_path):
    (tmp_path / "runs").mkdir()
    read(tmp_path / "runs", table_file=tmp_path / "all.parquet")
    found = read(tmp_path / "all.parquet")
    assert found.entries == ()
    assert math.isclose(found.total.duration_s, 0.0)


def test_another_table_is_an_error(tmp_path):
    (tmp_path / "other.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"cannot read .*other\.parquet"):
        read(tmp_path / "other.parquet")


def test_shares_of_machines_are_not_in_tables(tmp_path):
    with pytest.raises(UserError, match="tables lack shares"):
        read(tmp_path / "any.parquet", own_share=True)


@pytest.mark.parametrize("by", ["phase", "week", "model"])
def test_a_page_of_a_table_shows_the_same_energy_over_time(records, table, by):
    of_records, of_table = (
        energy_over_time(read(path, by=by, over_time=True)) for path in (records, table)
    )
    pd.testing.assert_frame_equal(of_table, of_records)
    assert len(of_records) > 3


def test_a_table_makes_a_page(table, tmp_path, printed):
    printed("ledger", table, "--html", tmp_path / "page.html")
    assert "Energy ledger" in (tmp_path / "page.html").read_text()


def test_a_table_has_a_row_of_emissions_for_each_record(records, table, tmp_path, printed):
    found = []
    for path in (records, table):
        out = tmp_path / f"{path.name}.csv"
        printed("ledger", path, "--emissions", out, "--country", "DE")
        found.append(pd.read_csv(out).sort_values("run_id").reset_index(drop=True))
    # Hardware is not in a table.
    of_records, of_table = (one.dropna(axis=1, how="all") for one in found)
    assert {"emissions", "country_iso_code", "gpu_energy"} <= set(of_table)
    pd.testing.assert_frame_equal(of_table, of_records[list(of_table)])


def test_a_table_makes_a_model_card(records, table, printed):
    of_records, of_table = (
        printed("ledger", path, "--model-card", "-", "--country", "DE") for path in (records, table)
    )
    (emissions,) = (line for line in of_records.splitlines() if "emissions: " in line)
    assert emissions in of_table
    assert of_records.partition("used **")[2].partition(".")[0] in of_table


def test_many_records_are_written_to_a_table_once(records, monkeypatch):
    monkeypatch.setattr(ledger, "MANY_RECORDS", 60)
    found = read(records, project="digits")
    (said,) = [one for one in found.warnings if "ledger.parquet" in one]
    assert said.startswith("60 records were written to")
    assert_equal(
        read(records / "ledger.parquet", project="digits").to_json()["total"],
        found.to_json()["total"],
    )
    assert not [one for one in read(records).warnings if "ledger.parquet" in one]


def test_a_directory_that_cannot_be_written_gets_no_table(records, monkeypatch):
    monkeypatch.setattr(ledger, "MANY_RECORDS", 60)
    (records / "ledger.parquet").mkdir()
    assert not [one for one in read(records).warnings if "ledger.parquet" in one]


def test_the_number_of_records_that_were_read_is_reported(records):
    seen = []
    read(records, on_read=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 59
