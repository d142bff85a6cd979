import io
import json
import math
import os

import pandas as pd
import pyarrow.parquet as pq
import pytest

from joulelab.carbon.costs import Costs
from joulelab.errors import StoreError
from joulelab.findings.schema import EPOCH_COLUMNS, RUN_COLUMNS
from joulelab.findings.tables import StudyTables, write_file, write_results
from joulelab.findings.totals import study_totals
from joulelab.report.first_screen import _facts
from joulelab.runs.study_runs import read_study
from joulelab.uncertain import COVERAGE_FACTOR

INTERFACE = (
    "run_id, model, phase, batch_size, repeat, epochs, samples, steps, duration_s, gross_j, "
    "idle_j, net_j, gross_low_j, gross_high_j, gpu_j, cpu_j, dram_j, provenance, mean_power_w, "
    "gpu_power_w, cpu_power_w, dram_power_w, gpu_utilization_pct, cpu_utilization_pct, "
    "memory_utilization_pct, vram_peak_bytes, gross_j_per_sample, net_j_per_sample, loss, "
    "accuracy_pct, parameters, trainable_parameters, buffer_bytes, size_bytes, macs, "
    "macs_per_parameter, host, gpu_name"
)


def run_rows(directories):
    return StudyTables.read(directories).runs


def write(directory):
    return write_results(StudyTables.read([directory]), directory)


@pytest.fixture
def one(tmp_path, synthetic):
    """One cell: LeNet at a fifth of the unit length, at 10 s of idle from each end."""
    writer = synthetic.Writer(tmp_path / "one")
    writer.idle(0, "before")
    writer.cell("LeNet", 0)
    writer.idle(0, "after")
    return writer


def test_columns_are_those_that_users_rely_on(one):
    rows = run_rows([one.directory])
    assert ", ".join(rows.columns).startswith(f"{INTERFACE}, ")
    assert list(rows["phase"]) == ["train", "infer"]


def test_energies_by_hand(one):
    train = run_rows([one.directory]).iloc[0]
    # 3 epochs of 0.2 * 4 s at 300 W GPU and 50 W CPU
    assert train["duration_s"] == pytest.approx(2.4)
    assert train["gpu_j"] == pytest.approx(720)
    assert train["cpu_j"] == pytest.approx(120)
    assert train["gross_j"] == pytest.approx(840)
    assert train["mean_power_w"] == pytest.approx(350)
    assert train["gpu_power_w"] == pytest.approx(300)
    assert train["gross_j_per_sample"] == pytest.approx(840 / 3000)
    # gain 5 % of 720 J and 25 % of 120 J; the edges 1 J an epoch and component
    u_j = math.hypot(36, 30, math.sqrt(3), math.sqrt(3))
    assert train["gross_low_j"] == pytest.approx(840 - COVERAGE_FACTOR * u_j)
    assert train["gross_high_j"] == pytest.approx(840 + COVERAGE_FACTOR * u_j)
    assert train["provenance"] == "estimated"
    assert train["sources"] == "cpu:0=estimate.cpu gpu:0=nvml.samples"


def test_a_meter_around_the_machine_has_columns_of_its_own(one):
    for path in (one.directory / "runs").glob("*/run.json"):
        record = json.loads(path.read_text())
        for part in (*record["spans"], *record["results"].values()):
            energy = part["energy"]
            node = energy["components"]["gpu:0"] | {"component": "node", "source": "redfish.power"}
            energy["enclosing"] = {
                "node": node | {"gross_j": 2 * node["gross_j"], "contains": ["gpu:0", "cpu:0"]}
            }
        path.write_text(json.dumps(record))
    train = run_rows([one.directory]).iloc[0]
    assert train["gross_j"] == pytest.approx(840)
    assert train["enclosing"] == "node"
    assert train["enclosing_j"] == pytest.approx(1440)
    [total] = study_totals(read_study(one.directory))
    assert total.gross.value == pytest.approx(run_rows([one.directory])["gross_j"].sum())
    [node] = total.enclosures
    assert node.gross_j == pytest.approx(run_rows([one.directory])["enclosing_j"].sum())
    facts = {fact.name: fact for fact in _facts(total, Costs(energy_j=1.0, interval_j=(1.0, 1.0)))}
    assert "more than its parts: power supply, fans" in facts["Node"].details[-1]


def test_idle_is_interpolated_over_the_runs_own_span(one):
    train = run_rows([one.directory]).iloc[0]
    # Idle middles lie 12.8 s apart: 5 s + 2.4 s + 0.4 s + 5 s; training's middle is 6.2 s in.
    gpu_w = 100 + 4 * (5 + 1.2) / 12.8
    assert train["idle_power_w"] == pytest.approx(gpu_w + 30)
    assert train["idle_j"] == pytest.approx((gpu_w + 30) * 2.4)
    assert train["net_j"] == pytest.approx(840 - (gpu_w + 30) * 2.4)
    assert train["net_low_j"] < train["net_j"] < train["net_high_j"]


def test_what_was_not_measured_is_empty_and_never_zero(one):
    write(one.directory)
    rows = run_rows([one.directory])
    assert math.isnan(rows["dram_j"].iloc[0])
    assert pd.isna(rows["vram_peak_bytes"].iloc[0])
    assert rows["absent"].iloc[0] == "dram:0"
    text = (one.directory / "results.csv").read_text()
    assert pd.read_csv(io.StringIO(text), dtype=str)["dram_j"].isna().all()
    stored = pq.read_table(one.directory / "results.parquet")
    assert stored.column("dram_j").null_count == 2
    assert stored.column("vram_peak_bytes").null_count == 2
    assert stored.column_names == list(RUN_COLUMNS)


def test_a_run_without_any_sensor_has_no_energy(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "none")
    writer.cell("LeNet", 0, energies=False)
    row = run_rows([writer.directory]).iloc[0]
    for name in ("gross_j", "net_j", "gross_low_j", "mean_power_w", "gpu_j", "gross_j_per_sample"):
        assert math.isnan(row[name]), name
    assert pd.isna(row["provenance"])


@pytest.mark.parametrize(
    ("idle_change", "cell_change"),
    [
        ({"block": 1}, {}),
        ({"boot_id": "boot-2"}, {}),
        ({"boot_id": None}, {"boot_id": None}),
        ({"status": "failed", "failure": {"kind": "error", "reason": "no"}}, {}),
    ],
)
def test_idle_of_another_block_or_boot_is_not_used(tmp_path, synthetic, idle_change, cell_change):
    writer = synthetic.Writer(tmp_path / "other")
    run = writer.idle(0, "before")
    path = writer.directory / "runs" / run["run_id"] / "run.json"
    path.write_text(json.dumps(run | idle_change))
    writer.cell("LeNet", 0, change=lambda data: data.update(cell_change))
    row = run_rows([writer.directory]).iloc[0]
    assert math.isnan(row["net_j"])
    assert math.isnan(row["idle_j"])
    assert row["gross_j"] == pytest.approx(840)


def test_epochs(one):
    tables = StudyTables.read([one.directory])
    rows, runs = tables.epochs, tables.runs
    assert list(rows.columns) == list(EPOCH_COLUMNS)
    assert list(rows["epoch"]) == [0, 1, 2, 0, 1]
    train = rows[rows["phase"] == "train"]
    assert train["gross_j"].sum() == pytest.approx(runs["gross_j"].iloc[0])
    assert train["net_j"].sum() == pytest.approx(runs["net_j"].iloc[0])
    assert list(train["loss"]) == [2.0, 1.0, pytest.approx(2 / 3)]


def test_failures_are_listed_and_are_no_results(one):
    one.failed("VGG16", 1)
    damaged = one.directory / "runs" / "r1-damaged"
    damaged.mkdir()
    (damaged / "run.json").write_text("{")
    tables = StudyTables.read([one.directory])
    listed = tables.failures
    assert list(listed["run_id"]) == ["r1-damaged", "r1-vgg16"]
    assert list(listed["kind"]) == ["damaged", "out_of_memory"]
    assert listed["reason"].iloc[1] == "CUDA out of memory"
    assert listed["model"].iloc[1] == "VGG16"
    assert "batch_size=128" in listed["factors"].iloc[1]
    assert set(tables.runs["model"]) == {"LeNet"}


def test_idle_rows(one):
    idle = StudyTables.read([one.directory]).idle
    gpu = idle[idle["component"] == "gpu:0"]
    assert list(gpu["power_w"]) == pytest.approx([100, 104])
    assert list(gpu["duration_s"]) == pytest.approx([10, 10])


def test_empty_study_gives_typed_empty_tables(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "empty")
    paths = write(writer.directory)
    assert [path.name for path in paths] == ["results.parquet", "results.csv", "epochs.parquet"]
    stored = pq.read_table(paths[0])
    assert stored.num_rows == 0
    assert str(stored.schema.field("gross_j").type) == "double"


def test_the_same_bytes_again_and_nothing_else(one):
    before = set(one.directory.iterdir())
    paths = write(one.directory)
    contents = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write(one.directory)] == contents
    assert set(one.directory.iterdir()) == before | set(paths)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = write_file(tmp_path / "a.csv", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


def test_a_malformed_record_is_listed_as_damaged(one):
    run = next((one.directory / "runs").glob("r0-lenet*")) / "run.json"
    data = json.loads(run.read_text())
    del data["results"]["train"]["energy"]
    run.write_text(json.dumps(data))
    tables = StudyTables.read([one.directory])
    assert tables.runs.empty
    assert list(tables.failures["kind"]) == ["damaged"]
    assert "energy" in tables.failures["reason"].iloc[0]


def test_no_study(tmp_path):
    with pytest.raises(StoreError, match="is not a study"):
        run_rows([tmp_path])


def test_studies_of_one_name_get_distinct_labels_and_are_read_once(tmp_path, synthetic):
    for name in ("here", "there"):
        synthetic.Writer(tmp_path / name).cell("LeNet", 0)
    both = [tmp_path / "here", tmp_path / "there", tmp_path / "here"]
    assert list(run_rows(both)["study"].unique()) == ["synthetic (here)", "synthetic (there)"]
