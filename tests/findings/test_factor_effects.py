"""Effects of factors that were planted are found, and none where there is none."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_effects import FACTORS, MODELS, effects_of, run_table

from joulelab.findings.all import analyze
from joulelab.findings.factor_effects import FACTOR_EFFECTS, SETTING_EFFECTS
from joulelab.findings.factor_findings import factor_findings
from joulelab.findings.summary import measurements, summary
from joulelab.findings.tables import StudyTables

TIME = {"LeNet": math.log(0.85), "ResNet18": math.log(0.6)}
"""The logarithm of the time with bf16 over that with fp32."""


def planted(model, phase, precision="fp32", optimizer="sgd", **_):
    """Precision changes power and time, which depends on the model; the optimizer accuracy."""
    is_bf16 = precision == "bf16"
    return (-0.1 * is_bf16, TIME[model] * is_bf16, -2.0 * (optimizer == "adam"))


def truth(row):
    """Return what was planted in a row of the effects, on its scale."""
    effect = 0.0
    factor, other, quantity = row["factor"], row["other"], row["quantity"]
    if factor == "precision" and quantity != "accuracy":
        if pd.isna(other):
            effect = np.mean(list(TIME.values()))
        elif other == "model":
            effect = TIME["ResNet18"] - TIME["LeNet"]
        if quantity == "net" and pd.isna(other):
            effect -= 0.1
    if quantity == "accuracy":
        return -2.0 if factor == "optimizer" and pd.isna(other) else 0.0
    return math.exp(effect)


def one(table, **values):
    """Return the only row with these values; ``None`` is a missing value."""
    for name, value in values.items():
        table = table[table[name].isna() if value is None else table[name] == value]
    (row,) = table.to_dict("records")
    return row


@pytest.fixture(scope="module")
def found():
    return effects_of(run_table(planted))


@pytest.fixture(scope="module")
def statements(found):
    return {finding.id: finding for finding in factor_findings(*found)}


def test_effects_and_interactions_are_of_the_right_size_and_sign(found):
    effects, _ = found
    assert len(effects) == 2 * 4 * (3 + 3 + 3)  # phases, quantities, effects and interactions
    for row in effects[effects["quantity"] != "gross"].to_dict("records"):
        assert row["low"] <= truth(row) <= row["high"], row
        assert row["shown"] == (abs(truth(row) - (row["quantity"] != "accuracy")) > 1e-9), row


def test_intervals_agree_with_corrected_tests(found):
    for table in found:
        tested = table[table["shown"].notna()]
        assert ((tested["p"] <= 0.05) == tested["shown"]).all()


def test_a_gross_effect_includes_that_of_idle_power(found):
    effects, _ = found
    gross = one(effects, phase="train", quantity="gross", factor="precision", other=None)
    power = (100 + 200 * math.exp(-0.1)) / 300
    assert gross["estimate"] == pytest.approx(power * math.sqrt(0.85 * 0.6), rel=0.02)


def test_the_first_level_of_the_plan_is_the_reference():
    factors = {"precision": ["tf32", "bf16"], "batch_size": [64, 8, 512]}
    effects, compared = effects_of(run_table(factors=factors), factors=factors)
    main = effects[effects["other"].isna()]
    assert set(zip(main["level"], main["reference"], strict=True)) == {
        ("bf16", "tf32"), ("8", "64"), ("512", "64"),
    }  # fmt: skip
    first = compared[compared["first_setting"]]
    assert set(first["setting"]) == {"batch size 64, precision tf32"}


def test_the_mean_effect_says_that_it_depends_on_the_model(statements):
    finding = statements["factor.train.net.precision.bf16"]
    assert finding.significant is True
    assert finding.estimate == pytest.approx(math.sqrt(0.85 * 0.6) * math.exp(-0.1), rel=0.02)
    assert "uses 3" in finding.statement
    assert "geometric mean over 8 combinations" in finding.statement
    assert "Its accuracy does not differ significantly" in finding.statement
    assert "the effect depends on the model, from -4" in finding.statement
    assert finding.answer == finding.statement
    assert statements["factor.train.net.memory_format.channels_last"].significant is False


def test_an_interaction_is_stated_with_both_effects(statements):
    finding = statements["interaction.train.net"]
    assert finding.significant is True
    assert "for ResNet18" in finding.statement
    assert "for LeNet" in finding.statement
    assert statements["interaction.train.accuracy"].significant is False
    strongest = statements["interaction.train.time.precision.model"]
    assert strongest.estimate == pytest.approx(0.6 / 0.85, rel=0.02)
    assert strongest.significant is True


def test_the_best_setting_is_as_accurate_as_the_first(found, statements):
    _, compared = found
    best = compared[compared["best"]]
    assert not best.duplicated(["model", "phase", "quantity"]).any()
    assert len(best) == 2 * 2 * 2
    assert best["setting"].str.contains("bf16").all()
    assert best["setting"].str.contains("sgd").all()
    finding = statements["best_setting.train.net.ResNet18"]
    assert finding.significant is True
    assert finding.low < 0.6 * math.exp(-0.1) < finding.high
    assert "4 settings are left out as significantly less accurate" in finding.statement


@pytest.mark.parametrize(("least_j", "is_known"), [(-50.0, False), (900.0, True)])
def test_no_setting_is_best_if_another_below_it_cannot_be_compared(least_j, is_known):
    factors = {"batch_size": [16, 32, 64]}
    runs = run_table(factors=factors, models=["LeNet"], phases=["train"])
    smallest = runs["batch_size"] == 64
    runs.loc[smallest, "net_j"] = least_j
    runs.loc[smallest & (runs["block"] == 0), "net_j"] = -10.0
    effects, compared = effects_of(runs, models=["LeNet"], factors=factors)
    net = compared[compared["quantity"] == "net"]
    assert net["estimate"].isna().sum() == 1
    assert net["best"].sum() == is_known
    assert compared["best"].sum() == is_known + 1, "gross energy is compared whatever net energy is"
    by_id = {finding.id: finding for finding in factor_findings(effects, compared)}
    finding = by_id["best_setting.train.net.LeNet"]
    text = (
        "which of 3 settings uses the least net energy per sample in training cannot be determined"
    )
    assert (text in finding.statement) is not is_known
    assert math.isnan(finding.estimate) is not is_known


def test_the_judged_study_from_its_records(tmp_path, synthetic, few_resamples, monkeypatch):
    few_resamples(monkeypatch)
    rng = np.random.default_rng(0)
    writer = synthetic.Writer(tmp_path / "s", models=list(MODELS), repeats=3, factors=FACTORS)
    for block in range(3):
        writer.idle(block, "before")
        for model, *levels in product(MODELS, *FACTORS.values()):
            named = dict(zip(FACTORS, levels, strict=True))
            _, time, points = planted(model, "train", **named)
            stretch = math.exp(time + 0.01 * rng.normal() + 0.05 * block)
            noise = 0.3 * rng.normal(size=2)

            def measured(run, points=points, noise=noise):
                for result, error in zip(run["results"].values(), noise, strict=True):
                    result["accuracy_pct"] = 90 + points + error

            writer.cell(model, block, stretch=stretch, change=measured, **named)
        writer.idle(block, "after")
    analysis = analyze(StudyTables.read([writer.directory]))
    effects = analysis.factor_effects
    assert len(effects) == 72
    for row in effects.to_dict("records"):
        # Power is the same in all settings, so energy changes with time alone.
        expected = truth(
            row | {"quantity": "time" if row["quantity"] != "accuracy" else "accuracy"}
        )
        assert row["low"] <= expected <= row["high"], row
        assert row["shown"] == (abs(expected - (row["quantity"] != "accuracy")) > 1e-9), row
    by_id = {finding.id: finding for finding in analysis.findings}
    assert by_id["best_setting.train.net.LeNet"].significant is True


def test_false_findings_and_coverage_without_effects():
    options = {"factors": {"precision": ["fp32", "bf16"], "batch_size": [8, 64]}}
    measured = measurements(summary(run_table(**options, phases=("train",))))
    false = covered = count = 0
    for seed in range(30):
        runs = run_table(seed=seed, **options, phases=("train",))
        effects, compared = effects_of(runs, measured, **options)
        none = np.where(effects["quantity"] == "accuracy", 0.0, 1.0)
        inside = (effects["low"] <= none) & (none <= effects["high"])
        false += bool(effects["shown"].any() or compared["shown"].any())
        covered, count = covered + int(inside.sum()), count + len(inside)
    assert false <= 4  # 5 % are 1.5; more than 4 of 30 have a probability of 1.6 %
    assert covered >= 0.93 * count


@pytest.mark.parametrize("repeats", [2, 3])
def test_failed_runs_leave_the_pairs_that_are_complete(repeats):
    effects, compared = effects_of(run_table(planted, repeats=repeats, missing=0.2, seed=3))
    row = one(effects, phase="train", quantity="net", factor="precision", other=None)
    assert row["n"] <= 8
    assert row["low"] <= math.sqrt(0.85 * 0.6) * math.exp(-0.1) <= row["high"] < 1
    assert (compared["best"].sum()) <= 8


def test_one_model_has_interactions_of_factors_alone():
    runs = run_table(planted, models=("LeNet",))
    effects, _ = effects_of(runs, models=("LeNet",))
    assert set(effects["other"].dropna()) == {"memory_format", "optimizer"}
    row = one(effects, phase="train", quantity="time", factor="precision", other=None)
    assert row["low"] <= 0.85 <= row["high"] < 1


def test_one_repeat_tests_nothing():
    found = effects_of(run_table(planted, repeats=1))
    for table in found:
        assert table["shown"].isna().all()
        assert table["low"].isna().all()
    for finding in factor_findings(*found):
        assert finding.significant is None
        if finding.id.startswith("factor"):
            assert "repeats in two blocks or more are needed" in finding.statement.lower()


def test_ten_levels_give_few_findings():
    factors = {"batch_size": [2**i for i in range(10)], "precision": ["fp32", "bf16"]}
    found = effects_of(run_table(factors=factors, repeats=2), factors=factors)
    stated = [finding for finding in factor_findings(*found) if not finding.detail]
    # per phase and energy: two factors, the interactions and two models
    assert len(stated) == 2 * 2 * (2 + 1 + 2)
    assert len(found[0]) == 2 * 4 * (9 + 1 + 9 + 9 + 1)


def test_a_study_without_factors_has_no_effects():
    effects, compared = effects_of(run_table(factors={}), factors={})
    assert list(effects) == list(FACTOR_EFFECTS)
    assert list(compared) == list(SETTING_EFFECTS)
    assert effects.empty
    assert compared.empty
    assert factor_findings(effects, compared) == []


@settings(max_examples=6)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3, 0.6]), st.integers(1, 3))
def test_statements_are_complete_whatever_is_missing(seed, missing, repeats):
    found = effects_of(run_table(planted, seed=seed, missing=missing, repeats=repeats))
    for finding in factor_findings(*found):
        assert "nan" not in finding.statement
        assert "NA" not in finding.statement
        if not math.isnan(finding.low):
            assert finding.low <= finding.estimate <= finding.high
            assert finding.groups
