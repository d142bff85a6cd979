"""The section on settings: its values are those of the tables, and it needs factors that vary."""

from types import SimpleNamespace

import pandas as pd
import pytest
from planted_effects import FACTORS, effects_of, run_table

from joulelab.findings.summary import measurements, summary
from joulelab.report.charts.chart import NothingToDraw
from joulelab.report.charts.effects import MOST_EFFECTS, effects
from joulelab.report.page import write_report
from joulelab.report.settings_section import MOST_SETTINGS, setting_table, settings_sections


def analysis_of(factors=FACTORS, **options):
    runs = run_table(factors=factors, **options)
    measured = measurements(summary(runs))
    found, compared = effects_of(runs, measured, factors=factors)
    tables = SimpleNamespace(measurements=measured)
    return SimpleNamespace(factor_effects=found, setting_effects=compared, tables=tables)


def faster(model, phase, precision="fp32", **_):
    return (0.0, -0.3 * (precision == "bf16"), 0.0)


@pytest.fixture(scope="module")
def analysis():
    return analysis_of(planted=faster)


@pytest.fixture(scope="module")
def section(analysis):
    (section,) = settings_sections(analysis)
    return section


def test_rows_are_the_settings_of_each_model_and_phase(section):
    assert section["factors"] == ["Precision", "Memory format", "Optimizer"]
    assert [phase for phase, _, _ in section["phases"]] == ["train", "infer"]
    for _, _, models in section["phases"]:
        assert [model["model"] for model in models] == ["LeNet", "ResNet18"]
        for model in models:
            rows = model["rows"]
            assert [row["levels"] for row in rows[:2]] == [
                ["fp32", "contiguous", "sgd"], ["fp32", "contiguous", "adam"],
            ]  # fmt: skip
            assert [row["first"] for row in rows] == [True] + 7 * [False]
            for energy in ("net", "gross"):
                (best,) = [row for row in rows if energy in row["best"]]
                assert best["levels"][0] == "bf16"


def test_values_and_changes_are_those_of_the_file(analysis, section):
    table = setting_table(analysis)
    assert set(FACTORS) <= set(table)
    selected = (table["model"] == "LeNet") & (table["phase"] == "train")
    net = table[selected & (table["quantity"] == "net") & (table["precision"] == "bf16")]
    rows = section["phases"][0][2][0]["rows"]
    assert section["columns"][0][:2] == ("Net energy per sample", "J")
    shown = [row["cells"][0] for row in rows if row["levels"][0] == "bf16"]
    assert [float(cell["value"]) for cell in shown] == pytest.approx(list(net["value"]), rel=5e-3)
    changes = [float(cell["change"].split(" ")[0]) for cell in shown]
    assert changes == pytest.approx([100 * (ratio - 1) for ratio in net["estimate"]], abs=0.06)
    assert all(cell["change"].endswith(" *") for cell in shown)


def test_effects_are_those_of_the_table_and_chart(analysis, section):
    training = section["effects"][0]
    (row,) = [row for row in training["rows"] if row["name"] == "bf16 vs fp32"]
    found = analysis.factor_effects
    found = found[found["other"].isna() & (found["factor"] == "precision")]
    time = found[(found["phase"] == "train") & (found["quantity"] == "time")]["estimate"].item()
    text, _, _ = row["cells"][2]
    assert text == f"{100 * (time - 1):.1f} *"
    drawn = effects(analysis).shown(
        {"phase": "train", "quantity": "net", "measure": "time", "effect": "bf16 vs fp32"}
    )
    assert drawn["value"].item() == pytest.approx(100 * (time - 1))
    assert drawn["significant"].item()


def test_many_settings_and_levels_are_cut():
    factors = {"batch_size": list(range(1, 41)), "precision": ["fp32", "bf16"]}
    options = {"models": ("LeNet",), "phases": ("train",), "repeats": 2}
    analysis = analysis_of(factors, planted=faster, **options)
    (section,) = settings_sections(analysis)
    (model,) = section["phases"][0][2]
    assert len(model["rows"]) in (MOST_SETTINGS, MOST_SETTINGS + 1)
    assert model["rows"][0]["first"]
    assert section["left_out"] == 80 - len(model["rows"])
    assert effects(analysis).table["effect"].nunique() >= MOST_EFFECTS
    assert effects(analysis).table["effect"].nunique() < 2 * MOST_EFFECTS
    assert len(setting_table(analysis)) == 4 * 80


def test_without_factors_there_is_neither_section_nor_chart():
    analysis = analysis_of({})
    assert list(settings_sections(analysis)) == []
    with pytest.raises(NothingToDraw, match="two levels"):
        effects(analysis)


@pytest.mark.usefixtures("fast")
def test_the_page_has_the_section_and_its_files(tmp_path, synthetic):
    writer = synthetic.Writer(
        tmp_path / "s", models=["LeNet"], repeats=2, factors={"precision": ["fp32", "bf16"]}
    )
    for block in range(2):
        writer.idle(block, "before")
        for precision, stretch in (("fp32", 1.0), ("bf16", 0.6)):
            writer.cell("LeNet", block, stretch=stretch + 0.01 * block, precision=precision)
        writer.idle(block, "after")
    report = write_report([writer.directory])
    names = {path.name for path in report.results}
    assert {"effects.csv", "settings.csv"} <= names
    html = report.page.read_text(encoding="utf-8")
    assert html.count('id="settings"') == html.count('id="figure-effects"') == 1
    assert '<span class="tag" data-quantity="net">least energy</span>' in html
    ratios = pd.read_csv(report.page.parent / "effects.csv")
    time = ratios[(ratios["quantity"] == "time") & (ratios["phase"] == "train")]
    assert time["estimate"].item() == pytest.approx(0.605 / 1.005, rel=1e-3)


def test_a_change_that_cannot_be_determined_has_no_number():
    (section,) = settings_sections(analysis_of(noise=(2.0, 2.0, 0.5), repeats=2))
    cells = [
        cell
        for _, _, models in section["phases"]
        for model in models
        for row in model["rows"]
        for cell in row["cells"]
    ]
    assert "cannot be determined" in [cell["change"] for cell in cells]
    changes = [cell for part in section["effects"] for row in part["rows"] for cell in row["cells"]]
    assert ("cannot be determined", "") in [(text, ends) for text, ends, _ in changes]
    assert not any("above" in ends for _, ends, _ in changes)
