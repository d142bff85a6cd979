import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from studies import MODELS, write_rich

from joulelab.errors import StoreError
from joulelab.findings.answers import answers
from joulelab.findings.data import Data
from joulelab.report import files
from joulelab.report.drawing import Drawers, processes_for
from joulelab.report.embedded import packed
from joulelab.report.figure import NothingToDraw
from joulelab.report.figures import accuracy, batch, by_model, machines, power, predicted, trace
from joulelab.report.figures.catalogue import drawn
from joulelab.report.figures.predictors import predictors
from joulelab.report.files import pictures, sheets_of
from joulelab.report.labels import FRAMES_PX, SIDES, sides
from joulelab.report.scopes import Material
from joulelab.runs.studies import read_studies
from joulelab.sensors.sensor import Quantity


def material_of(*directories):
    data = Data.of(read_studies(directories))
    return Material.of(data, answers(data))


@pytest.fixture(scope="module")
def directory(tmp_path_factory, synthetic):
    return write_rich(synthetic, tmp_path_factory.mktemp("figures") / "study")


@pytest.fixture(scope="module")
def material(directory):
    return material_of(directory)


@pytest.fixture(scope="module")
def pair(directory, tmp_path_factory, synthetic):
    other = tmp_path_factory.mktemp("figures") / "other"
    return material_of(directory, write_rich(synthetic, other, host="server"))


def only(figure, **chosen):
    return figure.shown(chosen)


def test_scopes_are_machine_and_setting(pair):
    assert len(pair.scopes) == 4
    assert [scope.leading for scope in pair.scopes].count(True) == 2
    assert len({scope.family for scope in pair.scopes}) == 2
    assert {scope.setting for scope in pair.scopes} == {"batch_size=16", "batch_size=64"}
    for scope in pair.scopes:
        runs = pair.runs_of(scope)
        assert len(runs) == len(MODELS) * 2 * 2
        assert runs["host"].nunique() == runs["batch_size"].nunique() == 1


def test_every_figure_is_drawn_but_those_without_data(pair):
    figures, missing = drawn(pair)
    assert [figure.name for figure in figures][:3] == ["energy", "duration", "ratio"]
    assert {"power", "utilization", "predictors", "energy-time", "batch-size", "epochs"} <= {
        figure.name for figure in figures
    }
    assert {"accuracy", "machines"} <= {figure.name for figure in figures}
    assert {lacking.title for lacking in missing} == {
        "What the last epochs bought",
        "Predicted against measured energy",
        "Power of a run",
    }


def test_every_figure_becomes_a_picture_of_its_rows(pair):
    figures, _ = drawn(pair)
    leading = [scope for scope in pair.scopes if scope.leading]
    names = []
    for figure in figures:
        for picture in pictures(sheets_of(figure, leading[0]), Drawers(("svg",), 0)):
            names.append(picture.sheet.name)
            svg = picture.content["svg"].decode()
            assert "NaN" not in svg
            assert "undefined" not in svg
            assert "{" not in svg
    assert len(names) == len(set(names)) > len(figures)
    assert {"energy-train", "predictors-macs-infer", "energy-time-residual-train"} <= set(names)


def test_energy_and_duration_are_the_tables(material):
    scope = material.scopes[0]
    table = scope.group.phase("train").set_index("model")
    energy = only(by_model.energy(material), scope=scope.key, phase="train", quantity="net")
    assert list(energy["value"]) == sorted(energy["value"])
    for row in energy.to_dict("records"):
        assert row["value"] == pytest.approx(1000 * table["net_j_per_sample"][row["model"]])
        assert row["high"] == pytest.approx(1000 * table["net_j_per_sample_high"][row["model"]])
    duration = only(by_model.duration(material), scope=scope.key, phase="train")
    assert sorted(duration["value"]) == pytest.approx(sorted(1000 * table["duration_s_per_sample"]))


def test_an_interval_that_reaches_zero_leaves_the_axis_logarithmic(material):
    wide = replace(material, summary=material.summary.assign(net_j_per_sample_low=-1.0))
    figure = by_model.energy(wide)
    net = only(figure, quantity="net")
    assert (net["low"] == -1000).all()
    assert (net["drawn_low"] > 0).all()
    [points] = [layer for layer in figure.chart["layer"] if layer["mark"]["type"] == "point"]
    assert points["encoding"]["x"]["scale"]["type"] == "log"


def test_ratio_has_the_rule_of_three(material):
    figure = by_model.ratio(material)
    assert next(iter(figure.choices[0].levels)) == "time"
    time = only(figure, scope=material.scopes[0].key, of="time")
    assert len(time) == len(MODELS)
    # an epoch of training takes 4 s, one of inference 1 s, of as many samples
    assert time["value"].tolist() == pytest.approx([4.0] * len(MODELS))
    assert (time["rule"] == 3).all()


def test_power_is_stacked_with_idle_and_the_limit_of_the_first_component(material):
    rows = only(power.power(material), scope=material.scopes[0].key, phase="train")
    bars = rows[rows["mark"] == "component"]
    assert bars[bars["component"] == "gpu"]["power_w"].tolist() == pytest.approx([300] * 6)
    assert bars[bars["component"] == "cpu"]["power_w"].tolist() == pytest.approx([50] * 6)
    assert not (bars["component"] == "dram").any()
    [limit] = rows[rows["mark"] == "limit"].to_dict("records")
    assert (limit["component"], limit["power_w"]) == ("GPU power limit 350 W", 350)
    assert rows[rows["mark"] == "idle"]["power_w"].between(130, 134).all()


def test_utilization_is_sized_by_memory(material):
    rows = only(power.utilization(material), scope=material.scopes[0].key, phase="train")
    assert rows["vram_gib"].tolist() == pytest.approx([0.5 * i for i in range(1, 7)])


def test_predictors_hold_their_rank_correlations(material):
    figure = predictors(material)
    rows = only(
        figure,
        scope=material.scopes[0].key,
        phase="train",
        quantity="net",
        predictor="macs",
    )
    notes = rows[rows["mark"] == "note"]["model"].tolist()
    # four of the six models have characteristics
    assert len(rows[rows["mark"] == "point"]) == 4
    assert len(notes) == 1
    assert notes[0].startswith("Spearman ")
    assert notes[0].endswith("n = 4")


def test_batch_size_marks_the_least_and_names_the_ends(material):
    rows = only(batch.batch(material), family="f0", phase="train", quantity="net")
    assert rows[rows["least"]]["batch_size"].tolist() == [64] * 6
    assert rows[rows["last"]]["batch_size"].tolist() == [64] * 6


def test_epochs_are_mean_and_range(material):
    rows = only(accuracy.epochs(material), scope="s0", quantity="net", measure="accuracy_pct")
    assert rows["epoch"].tolist() == [1, 2, 3]
    assert rows["least"].tolist() == pytest.approx([50, 53, 56])
    assert rows["most"].tolist() == pytest.approx([75, 78, 81])


def test_machines_are_beside_a_reference(pair):
    figure = machines.machines(pair)
    rows = only(figure, of="time", phase="train", setting="batch_size=16")
    assert len(rows) == len(MODELS)
    assert rows["value"].tolist() == pytest.approx([1.0] * len(MODELS))


HOLES = {
    "energy": ["gross_j", "net_j", "idle_j", "gpu_j", "cpu_j", "gpu_power_w", "cpu_power_w"],
    "idle": ["net_j", "idle_j", "idle_power_w", "net_low_j", "net_high_j"],
    "characteristics": ["macs", "parameters", "macs_per_parameter", "size_bytes"],
    "accuracy": ["accuracy_pct", "loss"],
    "samples": ["samples", "gross_j_per_sample", "net_j_per_sample"],
    "time": ["duration_s"],
    "utilization": ["gpu_utilization_pct", "vram_peak_bytes"],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory, synthetic):
    directory = tmp_path_factory.mktemp("small") / "study"
    return Data.of(read_studies([write_rich(synthetic, directory, batch_sizes=(16,))]))


@pytest.mark.parametrize("hole", HOLES)
def test_what_is_missing_is_said_and_never_an_empty_axis(small, hole):
    from joulelab.findings.summary import summary

    whole = small
    runs = whole.runs.copy()
    for column in HOLES[hole]:
        runs[column] = pd.Series([None] * len(runs), dtype=runs[column].dtype)
    epochs = whole.epochs.assign(loss=math.nan, accuracy_pct=math.nan)
    if hole == "energy":
        epochs = epochs.assign(gross_j=math.nan, net_j=math.nan)
    data = replace(whole, runs=runs, epochs=epochs, summary=summary(runs))
    material = Material.of(data, answers(data))
    figures, missing = drawn(material)
    assert all(lacking.reason for lacking in missing)
    for figure in figures:
        assert pictures(sheets_of(figure, material.scopes[0])[:1], Drawers(("svg",), 0))


def test_no_run_finished(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "study")
    writer.failed("LeNet", 0)
    figures, missing = drawn(material_of(writer.directory))
    assert figures == []
    assert len(missing) == 14


def test_same_figure_same_bytes(material):
    sheets = sheets_of(predictors(material), material.scopes[0])
    assert len(sheets) > 8
    with Drawers(files.FORMATS, 2) as drawers:
        apart = pictures(sheets, drawers)
    here = [picture.content for picture in pictures(sheets, Drawers(files.FORMATS, 0))]
    assert [picture.content for picture in apart] == here
    for kind, magic in (("svg", b"<svg"), ("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert all(one[kind].startswith(magic) for one in here)


def test_what_cannot_be_drawn_is_one_line():
    with Drawers(("svg",), 1) as drawers, pytest.raises(StoreError, match="cannot be drawn: "):
        drawers.draw([{"mark": 1}])


def test_few_runs_are_not_worth_a_process():
    assert processes_for(8) == 0
    assert 1 <= processes_for(64) <= 4


def write_forecast(directory, **changes):
    rows = [
        {"model": model, "phase": phase, "batch_size": 16, "energy_per_step_j": 10.0,
         "energy_low_j": 8.0, "energy_high_j": 12.0, "seconds_per_step": 0.1}
        for model in MODELS for phase in ("train", "infer")
    ]  # fmt: skip
    pd.DataFrame(rows).rename(columns=changes).to_parquet(directory / "predictions.parquet")


def test_predicted_beside_measured(tmp_path, synthetic):
    directory = write_rich(synthetic, tmp_path / "study")
    write_forecast(directory)
    material = material_of(directory)
    table = predicted.predicted(material).table
    assert len(table) == 2 * len(MODELS)
    [row] = table[(table["model"] == "LeNet") & (table["phase"] == "train")].to_dict("records")
    runs = material.data.runs
    own = runs[(runs["model"] == "LeNet") & (runs["phase"] == "train") & (runs["batch_size"] == 16)]
    assert row["measured_j"] == pytest.approx(own["gross_j"].sum() / own["steps"].sum())
    assert row["measured_low_j"] < row["measured_j"] < row["measured_high_j"]
    assert row["predicted_j"] == 10


def test_a_forecast_that_is_none(tmp_path, synthetic):
    directory = write_rich(synthetic, tmp_path / "study", batch_sizes=(16,), repeats=1)
    write_forecast(directory, energy_low_j="low")
    with pytest.raises(StoreError, match="lacks the column energy_low_j"):
        predicted.predicted(material_of(directory))
    (directory / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="cannot be read"):
        predicted.predicted(material_of(directory))


@settings(deadline=None)
@given(arrays(float, st.integers(1, 400), elements=st.floats(0, 1e3)), st.integers(1, 20))
def test_thinning_keeps_the_extremes(values, buckets):
    kept = trace.extremes_kept(values, buckets)
    assert len(kept) <= max(2 * buckets, len(values) if len(values) <= 2 * buckets else 0)
    assert values[kept].min() == values.min()
    assert values[kept].max() == values.max()
    assert (np.diff(kept) > 0).all()


def test_a_counters_power_is_between_its_readings():
    t_ns = np.array([0, 1, 2, 2, 3, 4]) * 10**9
    counter_j = np.array([0.0, 10.0, 30.0, 30.0, math.nan, 5.0])
    t_s, power_w = trace.power_of(Quantity.ENERGY, t_ns, counter_j)
    # it returned to zero after 2 s: nothing is known of that stretch
    assert t_s.tolist() == [1, 2]
    assert power_w.tolist() == [10, 20]


def test_no_trace(tmp_path, synthetic):
    directory = write_rich(synthetic, tmp_path / "study", batch_sizes=(16,), repeats=1)
    with pytest.raises(NothingToDraw, match="trace"):
        trace.trace(material_of(directory))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 380), st.floats(0, 235)), min_size=1, max_size=20))
def test_names_lie_on_nothing(points):
    at = np.array(points)
    frame = FRAMES_PX["side"]
    found = sides(at, [f"model {i}" for i in range(len(at))], frame)
    assert len(found) == len(at)
    assert set(found) <= {None, *SIDES}
    everywhere = sides(np.array([[190.0, 100.0]]), ["alone"], frame)
    assert everywhere == ["E"]


texts = st.one_of(st.none(), st.sampled_from(["a", "b", "</script>"]))


@given(st.lists(st.tuples(texts, st.one_of(st.none(), st.floats(-1e3, 1e3))), max_size=20))
def test_packed_columns_are_the_rows(rows):
    table = pd.DataFrame(rows, columns=["model", "value"]).astype({"value": "float64"})
    columns = json.loads(json.dumps(packed(table)))
    models = columns["model"]
    if isinstance(models, dict):
        models = [None if code is None else models["levels"][code] for code in models["codes"]]
    assert models == [model for model, _ in rows]
    for found, (_, value) in zip(columns["value"], rows, strict=True):
        assert found is None if value is None else found == pytest.approx(value, rel=1e-5)


def test_a_note_without_points_is_no_figure(material):
    figure = predictors(material)
    notes = figure.table[figure.table["mark"] == "note"]
    assert len(notes)
    assert replace(figure, table=notes).shown({"quantity": "net"}).empty
    assert sheets_of(replace(figure, table=notes), material.scopes[0]) == []
