"""Studies at several power limits: ratios to the highest one, the knee, and the chart."""

import pytest

from joulelab.findings.all import analyze
from joulelab.findings.tables import StudyTables
from joulelab.report.charts import all_charts
from joulelab.runs.study_runs import read_study

SLOWER = {100.0: 1.9, 150.0: 1.25, 200.0: 1.004, 250.0: 1.0, 300.0: 1.0}
"""Time at each limit, as a multiple of that at the highest; watts above 200 W buy nothing."""
POWER_W = {100.0: 98.0, 150.0: 149.0, 200.0: 198.0, 250.0: 240.0, 300.0: 270.0}


def write(synthetic, monkeypatch, directory, blocks):
    writer = synthetic.Writer(
        directory,
        models=["LeNet", "ResNet18"],
        repeats=blocks,
        phases=["train"],
        factors={"power_limit_w": list(SLOWER)},
    )
    for block in range(blocks):
        writer.idle(block, "before")
        for model in writer.plan.models:
            for k, limit_w in enumerate(SLOWER):
                watts = {"gpu:0": POWER_W[limit_w], "cpu:0": 50.0}
                monkeypatch.setitem(synthetic.POWER_W, "train", watts)
                wobble = 1 + 0.0005 * ((k + 2 * block) % 3)
                writer.cell(model, block, stretch=SLOWER[limit_w] * wobble, power_limit_w=limit_w)
        writer.idle(block, "after")
    return analyze(StudyTables.of([read_study(directory)]))


@pytest.fixture
def analysis(synthetic, monkeypatch, tmp_path):
    return write(synthetic, monkeypatch, tmp_path / "limits", blocks=3)


def test_time_and_energy_are_relative_to_the_highest_level(analysis):
    curves = analysis.limit_curves
    one = curves[(curves["model"] == "LeNet") & (curves["quantity"] == "time")].set_index("at")
    assert one["estimate"].to_dict() == pytest.approx(SLOWER, rel=2e-3)
    assert (one["low"] <= one["estimate"]).all()
    assert (one["estimate"] <= one["high"]).all()
    gross = curves[(curves["model"] == "LeNet") & (curves["quantity"] == "gross")].set_index("at")
    expected = (198 + 50) * 1.004 / (270 + 50)
    assert gross.loc[200.0, "estimate"] == pytest.approx(expected, rel=2e-3)


def test_the_knee_is_the_lowest_level_that_is_as_fast(analysis):
    assert set(analysis.limit_knees["estimate"]) == {200.0}
    (finding,) = [one for one in analysis.findings if one.id.startswith("limit.")]
    assert finding.id == "limit.train.power_limit_w"
    assert (finding.estimate, finding.unit, finding.significant) == (200.0, "W", True)
    assert "takes at most 1 % longer than at 300 W is 200 W" in finding.statement
    assert "it saves 3" in finding.statement


def test_without_repeats_there_is_no_interval(synthetic, monkeypatch, tmp_path):
    analysis = write(synthetic, monkeypatch, tmp_path / "once", blocks=1)
    (finding,) = [one for one in analysis.findings if one.id.startswith("limit.")]
    assert finding.significant is None
    assert "repeats in two blocks or more are needed" in finding.statement


def test_the_chart_shows_each_level_and_rings_the_knee(analysis):
    charts, _ = all_charts(analysis)
    (chart,) = [one for one in charts if one.name == "limits"]
    shown = chart.shown({"quantity": "net", "measure": "time", "phase": "train"})
    assert len(shown) == 2 * len(SLOWER)
    assert set(shown.loc[shown["knee"], "at"]) == {200.0}


def test_limits_are_named_with_their_units(analysis):
    settings = set(analysis.tables.measurements["setting"])
    assert "power limit 200 W" in settings


def test_studies_without_limits_have_no_knee(synthetic, tmp_path):
    writer = synthetic.Writer(tmp_path / "plain", models=["LeNet"], phases=["train"])
    writer.cell("LeNet", 0)
    analysis = analyze(StudyTables.of([read_study(tmp_path / "plain")]))
    assert analysis.limit_curves.empty
    _, missing = all_charts(analysis)
    assert "no model ran at two power limits or clocks" in missing.values()
