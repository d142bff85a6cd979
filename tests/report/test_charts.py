import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from factors_study import MODELS
from hypothesis import given
from hypothesis import strategies as st

from joulelab.errors import StoreError
from joulelab.findings.accuracy import epoch_ranges, epochs_by_model
from joulelab.findings.all import analyze
from joulelab.findings.summary import measurements, summary
from joulelab.findings.tables import StudyTables
from joulelab.report.charts import (
    all_charts,
    drawings_of,
    per_model,
    power,
    scatter,
    training,
)
from joulelab.report.charts.chart import NothingToDraw
from joulelab.report.page_data import pack
from joulelab.report.renderer import render
from joulelab.sensors.sensor import Quantity

GROUP = {"study": "workstation", "batch_size": 16, "precision": "fp32"}


def rows_of(analysis, **values):
    """Return the measurements with these values."""
    table = analysis.tables.measurements
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def caption_of(chart, rows=None):
    """Return the caption of a view of some rows, by default of all."""
    rows = chart.table if rows is None else rows
    return " ".join(one.text for one in chart.caption if one.is_about(rows))


@pytest.fixture(scope="module")
def group(factors):
    """The number of one group."""
    (number,) = rows_of(factors, **GROUP)["group"].unique()
    return number


def test_groups_are_machine_and_setting(factors):
    groups = factors.tables.measurements.drop_duplicates("group")
    assert groups["group"].tolist() == list(range(6))
    assert groups.groupby("study").size().to_dict() == {"workstation": 4, "server": 2}
    assert (groups["rank"] == 0).sum() == 2
    assert groups["family"].nunique() == 3
    assert set(groups["setting"]) == {
        "batch size 16, precision fp32", "batch size 16, precision bf16",
        "batch size 64, precision fp32", "batch size 64, precision bf16",
        "batch size 16", "batch size 64",
    }  # fmt: skip
    assert (factors.tables.measurements.groupby("group").size() == 2 * len(MODELS)).all()


def test_every_chart_is_drawn_except_those_without_data(factors):
    charts, missing = all_charts(factors)
    names = [chart.name for chart in charts]
    assert names[:4] == ["effects", "energy", "duration", "ratio"]
    assert set(names[4:]) == {
        "power", "utilization", "predictors", "energy-time", "batch-size", "epochs", "accuracy",
        "exchange", "machines",
    }  # fmt: skip
    assert set(missing) == {
        "Predicted against measured energy", "Power during a run",
        "Time and energy against power limit",
    }  # fmt: skip


def test_every_chart_becomes_images_of_its_rows(factors):
    charts, _ = all_charts(factors)
    names = []
    for chart in charts:
        for one in drawings_of(chart, 0, 0):
            names.append(one.name)
            if one.sentence:
                continue
            svg = render(one.specification, ("svg",))["svg"].decode()
            assert "NaN" not in svg
            assert "undefined" not in svg
            assert "{" not in svg
    assert len(names) == len(set(names)) > len(charts)
    assert {"energy-train", "predictors-macs-infer", "energy-time-residual-train"} <= set(names)
    assert "machines-net-batch-size-16-precision-fp32-train" in names


def test_energy_and_duration_are_the_tables(factors, group):
    table = rows_of(factors, group=group, phase="train").set_index("model")
    selected = {"group": group, "phase": "train", "quantity": "net"}
    energy = per_model.energy(factors).shown(selected)
    assert list(energy["value"]) == sorted(energy["value"])
    for row in energy.to_dict("records"):
        assert row["value"] == pytest.approx(1000 * table["net_j_per_sample"][row["model"]])
        assert row["high"] == pytest.approx(1000 * table["net_j_per_sample_high"][row["model"]])
    duration = per_model.duration(factors).shown(selected)
    assert sorted(duration["value"]) == pytest.approx(sorted(1000 * table["duration_s_per_sample"]))


def with_measurements(analysis, **columns):
    """Return an analysis with other values of the measurements."""
    measured = analysis.tables.measurements.assign(**columns)
    return replace(analysis, tables=replace(analysis.tables, measurements=measured))


def test_an_interval_that_reaches_zero_leaves_the_axis_logarithmic(factors):
    chart = per_model.energy(with_measurements(factors, net_j_per_unit_low=-1.0))
    net = chart.shown({"quantity": "net"})
    assert (net["low"] == -1000).all()
    assert (net["x_low"] == net["x_from"]).all()
    assert (net["x_from"] > 0).all()
    assert net["x_cut_low"].all()
    points = chart.specification["layer"][-1]
    assert points["encoding"]["x"]["scale"]["type"] == "log"


def test_an_interval_that_leaves_the_plot_ends_in_an_arrow(factors):
    first = factors.tables.measurements["model"] == MODELS[0]
    high = factors.tables.measurements["net_j_per_unit_high"].mask(first, math.inf)
    chart = per_model.energy(with_measurements(factors, net_j_per_unit_high=high))
    net = chart.shown({"quantity": "net"})
    first = net["model"] == MODELS[0]
    assert net["x_cut_high"].tolist() == first.tolist()
    assert (net["x_high"] == net["x_to"]).tolist() == first.tolist()
    estimates = net.groupby(["group", "phase"])["value"].transform("max")
    assert (net["x_to"] <= 3 * estimates).all()
    shapes = [layer["mark"].get("shape") for layer in chart.specification["layer"]]
    assert shapes[:2] == [None, "triangle-right"]
    phases = net.groupby(["group", "phase"])
    for rows in (part for _, part in phases):
        assert "ends in an arrow" in caption_of(chart, rows)
        assert "ends in an arrow" not in caption_of(chart, rows[~rows["x_cut_high"]])
    assert "ends in an arrow" not in caption_of(per_model.energy(factors))
    # Infinity is no value of JSON.
    json.dumps(pack(net), allow_nan=False)


def test_ratio_has_the_rule_of_three(factors, group):
    chart = per_model.ratio(factors)
    assert next(iter(chart.selectors[0].levels)) == "time"
    time = chart.shown({"group": group, "of": "time"}).set_index("model")["value"]
    # an epoch of training takes 4 s, one of inference 0.8 s and more, of as many samples
    by_hand = {model: 4 / (0.8 + 0.1 * (4 * i % 7)) for i, model in enumerate(MODELS)}
    assert time.to_dict() == pytest.approx(by_hand)
    assert (chart.table["rule"] == 3).all()


def test_power_is_stacked_with_idle_and_the_limit_of_the_first_component(factors, group):
    rows = power.power(factors).shown({"group": group, "phase": "train"})
    bars = rows[rows["mark"] == "component"]
    gpu_w = [334.0 - 25 * i for i in range(7)]  # the greatest power first
    assert bars[bars["component"] == "gpu"]["power_w"].tolist() == pytest.approx(gpu_w)
    assert bars[bars["component"] == "cpu"]["power_w"].tolist() == pytest.approx([50] * 7)
    assert not (bars["component"] == "dram").any()
    [limit] = rows[rows["mark"] == "limit"].to_dict("records")
    assert (limit["component"], limit["power_w"]) == ("GPU power limit 350 W", 350)
    assert rows[rows["mark"] == "idle"]["power_w"].between(130, 134).all()


def test_utilization_is_sized_by_memory(factors, group):
    rows = scatter.utilization(factors).shown({"group": group, "phase": "train"})
    assert rows["vram_gib"].tolist() == pytest.approx([0.5 * i for i in range(1, 8)])


def test_predictors_state_their_rank_correlations(factors, group):
    selected = {"group": group, "phase": "train", "quantity": "net", "predictor": "macs"}
    rows = scatter.predictors(factors).shown(selected)
    assert len(rows[rows["mark"] == "point"]) == len(MODELS)
    (note,) = rows[rows["mark"] == "note"]["model"]
    assert note.startswith("Spearman ")
    assert note.endswith("n = 7")


def test_batch_size_marks_the_best_and_names_the_ends(factors):
    rows = training.batch_sizes(factors).shown({"family": 0, "phase": "train", "quantity": "net"})
    assert rows[rows["best"]]["batch_size"].tolist() == [64] * 7
    assert rows[rows["last"]]["batch_size"].tolist() == [64] * 7


def test_epochs_have_a_line_per_model_and_their_mean(factors, group):
    selected = {"group": group, "quantity": "net", "measure": "accuracy_pct"}
    rows = training.epochs(factors).shown(selected)
    mean = rows[rows["mark"] == "mean"]
    assert mean["epoch"].tolist() == [1, 2, 3, 4, 5]
    of_models = rows[rows["mark"] == "model"]
    assert set(of_models["model"]) == set(MODELS)
    by_hand = of_models.groupby("epoch")["value"].mean()
    assert mean["value"].tolist() == pytest.approx(by_hand.tolist())
    assert mean["n"].tolist() == [len(MODELS)] * 5


def test_means_are_of_the_epochs_that_all_models_completed(factors, group):
    epochs = factors.tables.epochs
    short = (epochs["model"] == MODELS[-1]) & (epochs["epoch"] >= 3)
    tables = replace(factors.tables, epochs=epochs[~short])
    for measure in ("energy", "loss", "accuracy_pct"):
        selected = {"group": group, "quantity": "gross", "measure": measure}
        rows = training.epochs(analyze_epochs(factors, tables)).shown(selected)
        mean = rows[rows["mark"] == "mean"]
        assert mean["epoch"].tolist() == [1, 2, 3]
        assert (mean["n"] == len(MODELS)).all()
        of_models = rows[rows["mark"] == "model"]
        assert of_models.groupby("model")["epoch"].max()[MODELS[-1]] == 3
        assert of_models["epoch"].max() == 5
        if measure == "energy":
            for _, line in of_models.groupby("model"):
                assert (np.diff(line.sort_values("epoch")["value"]) > 0).all()


def analyze_epochs(analysis, tables):
    by_model = epochs_by_model(tables.runs, tables.epochs, tables.measurements)
    return replace(
        analysis, tables=tables, epochs_by_model=by_model, epoch_ranges=epoch_ranges(by_model)
    )


def test_machines_are_compared_with_a_reference(factors):
    selected = {"of": "time", "phase": "train", "setting": "batch size 16, precision fp32"}
    rows = per_model.machines(factors).shown(selected)
    assert set(rows["machine"]) == {"server"}
    assert rows["value"].tolist() == pytest.approx([1.5] * len(MODELS))


HOLES = {
    "energy": ["gross_j", "net_j", "idle_j", "gpu_j", "cpu_j", "gpu_power_w", "cpu_power_w"],
    "idle": ["net_j", "idle_j", "idle_power_w", "net_low_j", "net_high_j"],
    "characteristics": ["macs", "parameters", "macs_per_parameter", "size_bytes"],
    "accuracy": ["accuracy_pct", "loss"],
    "samples": ["samples", "gross_j_per_sample", "net_j_per_sample"],
    "time": ["duration_s"],
    "utilization": ["gpu_utilization_pct", "vram_peak_bytes"],
}


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("hole", HOLES)
def test_what_is_missing_is_stated_without_an_empty_axis(factors, hole):
    whole = factors.tables
    runs = whole.runs[whole.runs["model"].isin(MODELS[:4])]
    for name, level in GROUP.items():
        runs = runs[runs[name] == level]
    runs = runs.reset_index(drop=True)
    for column in HOLES[hole]:
        runs[column] = pd.Series([None] * len(runs), dtype=runs[column].dtype)
    epochs = whole.epochs.assign(loss=math.nan, accuracy_pct=math.nan)
    if hole == "energy":
        epochs = epochs.assign(gross_j=math.nan, net_j=math.nan)
    means = summary(runs)
    tables = replace(
        whole, runs=runs, epochs=epochs, summary=means, measurements=measurements(means)
    )
    charts, missing = all_charts(analyze(tables))
    assert all(missing.values())
    assert charts
    for chart in charts:
        first = drawings_of(chart, 0, 0)[0]
        assert first.specification["datasets"]["table"]


@pytest.mark.usefixtures("fast")
def test_no_run_finished(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study")
    writer.failed("LeNet", 0)
    charts, missing = all_charts(analyze(StudyTables.read([writer.directory])))
    assert charts == []
    assert len(missing) == 16


def write_predictions(directory, **changes):
    rows = [
        {"model": model, "phase": phase, "batch_size": 16, "energy_per_step_j": 10.0,
         "energy_low_j": 8.0, "energy_high_j": 12.0, "seconds_per_step": 0.1}
        for model in ("LeNet", "VGG16") for phase in ("train", "infer")
    ]  # fmt: skip
    pd.DataFrame(rows).rename(columns=changes).to_parquet(directory / "predictions.parquet")


@pytest.mark.usefixtures("fast")
def test_predictions_with_the_measured_energy(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study", models=["LeNet", "VGG16"], repeats=2)
    for block in range(2):
        for batch_size in (16, 64):
            for model in ("LeNet", "VGG16"):
                writer.cell(model, block, stretch=1 + 0.02 * block, batch_size=batch_size)
    directory = writer.directory
    write_predictions(directory)
    analysis = analyze(StudyTables.read([directory]))
    table = scatter.predictions(analysis).table
    assert len(table) == 4
    [row] = table[(table["model"] == "LeNet") & (table["phase"] == "train")].to_dict("records")
    runs = analysis.tables.runs
    own = runs[(runs["model"] == "LeNet") & (runs["phase"] == "train") & (runs["batch_size"] == 16)]
    assert row["measured_j"] == pytest.approx(own["gross_j"].sum() / own["steps"].sum())
    assert row["measured_low_j"] < row["measured_j"] < row["measured_high_j"]
    assert row["predicted_j"] == 10

    write_predictions(directory, energy_low_j="low")
    with pytest.raises(StoreError, match="lacks the column energy_low_j"):
        scatter.predictions(analysis)
    (directory / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="cannot read"):
        scatter.predictions(analysis)


def test_a_counters_power_is_between_its_readings():
    t_ns = np.array([0, 1, 2, 2, 3, 4]) * 10**9
    counter_j = np.array([0.0, 10.0, 30.0, 30.0, math.nan, 5.0])
    t_s, power_w = power.power_of(Quantity.ENERGY, t_ns, counter_j)
    # it was reset after 2 s: that stretch has no power
    assert t_s.tolist() == [1, 2]
    assert power_w.tolist() == [10, 20]


def test_no_trace(factors):
    with pytest.raises(NothingToDraw, match="trace"):
        power.trace(factors)


texts = st.one_of(st.none(), st.sampled_from(["a", "b", "</script>"]))


@given(st.lists(st.tuples(texts, st.one_of(st.none(), st.floats(-1e3, 1e3))), max_size=20))
def test_packed_columns_are_the_rows(rows):
    table = pd.DataFrame(rows, columns=["model", "value"]).astype({"value": "float64"})
    columns = json.loads(json.dumps(pack(table)))
    models = columns["model"]
    if isinstance(models, dict):
        models = [None if code is None else models["levels"][code] for code in models["codes"]]
    assert models == [model for model, _ in rows]
    for found, (_, value) in zip(columns["value"], rows, strict=True):
        assert found is None if value is None else found == pytest.approx(value, rel=1e-5)


def test_a_note_without_points_is_no_chart(factors):
    chart = scatter.predictors(factors)
    notes = chart.table[chart.table["mark"] == "note"]
    assert len(notes)
    assert replace(chart, table=notes).shown({"quantity": "net"}).empty
    assert drawings_of(replace(chart, table=notes), 0, 0) == []
