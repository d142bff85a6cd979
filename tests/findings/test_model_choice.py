"""Which model to take, in each case that a study may leave."""

import math
import re

import pytest

from joulelab.findings.all import analyze
from joulelab.findings.tables import StudyTables

MODELS = ("LeNet", "MobileNetV2", "VGG16", "ResNet18")  # by energy: 0.2, 0.6, 1 and 2 times


@pytest.fixture(autouse=True)
def patched(few_resamples, monkeypatch):
    few_resamples(monkeypatch)


def answers(synthetic, directory, models, repeats=3, change=None, scatter=0.01, **options):
    """Return the findings by id, of repeats that differ a little."""
    writer = synthetic.Writer(directory, models=list(models), repeats=repeats)
    for block in range(repeats):
        writer.idle(block, "before")
        for i, model in enumerate(models):
            wobble = 1 + scatter * math.sin(3 * i + 5 * block)
            one = None if change is None else (lambda run, m=model, b=block: change(run, m, b))
            writer.cell(model, block, stretch=wobble, change=one, **options)
        writer.idle(block, "after")
    return {one.id: one for one in analyze(StudyTables.read([directory])).findings}


def accuracies(points):
    def change(run, model, block):
        known = points.get(model)
        for result in run["results"].values():
            result["accuracy_pct"] = (
                None if known is None else known + 0.2 * math.cos(3 * block + len(model))
            )

    return change


unknown = accuracies({})


def test_without_accuracies_the_least_energy_counts(synthetic, tmp_path):
    found = answers(synthetic, tmp_path / "s", MODELS, change=unknown)["models.train.net"]
    assert found.statement.startswith(
        "By energy alone, as no accuracy was measured, take LeNet: it uses the least net energy "
        "per sample in training; the next, MobileNetV2, uses 3.0"
    )
    assert "ResNet18 uses the most, 10." in found.statement
    assert (found.significant, found.n, found.unit) == (True, 4, "1")
    assert found.low < 3 < found.high


def test_models_that_cannot_be_distinguished_are_named(synthetic, tmp_path, monkeypatch):
    monkeypatch.setitem(synthetic.SCALE, "MobileNetV2", 0.2)
    by_id = answers(synthetic, tmp_path / "s", MODELS[:3], change=unknown, scatter=0.05)
    found = by_id["models.train.gross"]
    assert found.significant is True
    assert "MobileNetV2 cannot be distinguished from it (95 %)" in found.statement or (
        "LeNet cannot be distinguished from it (95 %)" in found.statement
    )
    assert "VGG16 uses the most, " in found.statement
    assert 1 < found.low < 5 < found.high  # That of VGG16, which is what is significant.


def test_no_difference_still_has_an_answer(synthetic, tmp_path, monkeypatch):
    for model in MODELS[:2]:
        monkeypatch.setitem(synthetic.SCALE, model, 1.0)
    found = answers(synthetic, tmp_path / "s", MODELS[:3], change=unknown, scatter=0.2)
    text = found["models.train.gross"].statement
    assert " for now: it was measured to use the least gross energy" in text
    assert "no other uses significantly more (95 %)" in text
    assert found["models.train.gross"].significant is False


def test_at_equal_accuracy_the_least_energy_counts(synthetic, tmp_path):
    equal = accuracies(dict.fromkeys(MODELS, 90.0))
    by_id = answers(synthetic, tmp_path / "s", MODELS, change=equal)
    found = by_id["models.infer.gross"]
    assert found.statement.startswith(
        "Take LeNet: it uses the least gross energy per sample in inference of the 4 models whose "
        "accuracy 3 repeats cannot distinguish from the highest ("
    )
    assert "less accurate" not in found.statement
    saved = by_id["efficient.infer.gross"]
    assert saved.detail
    assert saved.estimate == 0 or "LeNet saves " in saved.statement


def test_an_accuracy_that_repeats_leave_open_is_said_to_be_in_doubt(synthetic, tmp_path):
    points = {"LeNet": (76.7, 74.2, 50.0), "VGG16": (87.8, 88.9, 90.3)}

    def change(run, model, block):
        for result in run["results"].values():
            result["accuracy_pct"] = points[model][block]

    found = answers(synthetic, tmp_path / "s", list(points), change=change)["models.train.gross"]
    assert found.answer.startswith(
        "Take LeNet only if more repeats confirm its accuracy: it uses the least gross energy per "
        "sample in training of the 2 models whose accuracy 3 repeats cannot distinguish from the "
        "highest (VGG16, 89.0 %; LeNet, 67.0 %); the next, VGG16, uses "
    )


def test_a_less_accurate_model_is_a_trade_off(synthetic, tmp_path):
    points = accuracies({"LeNet": 60.0, "MobileNetV2": 90.0, "VGG16": 92.4, "ResNet18": 92.4})
    found = answers(synthetic, tmp_path / "s", MODELS, change=points)["models.train.gross"]
    assert found.statement.startswith("Take VGG16: it uses the least gross energy per sample ")
    assert "the next, ResNet18, uses 2.0" in found.statement
    assert "VGG16 uses 1.6" in found.statement
    assert re.search(
        r" times as much as MobileNetV2, which is 2\.\d\d \(95 % CI .*\) points", found.statement
    )
    assert found.statement.endswith("1 other model also uses less and is less accurate.")
    assert "VGG16 uses 1.6" in found.answer
    assert found.significant is True


def test_the_most_accurate_model_alone(synthetic, tmp_path):
    points = accuracies({"LeNet": 60.0, "MobileNetV2": 90.0, "VGG16": 80.0})
    found = answers(synthetic, tmp_path / "s", MODELS, change=points)["models.train.gross"]
    assert re.fullmatch(
        "Take MobileNetV2 for the highest accuracy, 90.0 %: all others are significantly less "
        rf"accurate \(95 %\). MobileNetV2 uses {found.estimate:.2f} \(95 % CI {found.low:.2f}–"
        rf"{found.high:.2f}\) times as much gross energy per sample in training as LeNet, "
        r"which is 30.\d .* points less accurate. "
        "The accuracy of ResNet18 is unknown.",
        found.statement,
    )


def test_one_model_and_one_repeat(synthetic, tmp_path):
    by_id = answers(synthetic, tmp_path / "one", ["VGG16"], repeats=1)
    found = by_id["models.train.gross"]
    assert found.statement.startswith("VGG16 is the only model that was measured: it uses 1.40 J ")
    assert (found.unit, found.estimate) == ("J", pytest.approx(350 * 4 / 1000))
    assert found.significant is None
    by_id = answers(synthetic, tmp_path / "four", MODELS, repeats=1, change=unknown)
    found = by_id["models.train.gross"]
    assert "take LeNet if repeats confirm it: it was measured to use the least" in found.statement
    assert "the next, MobileNetV2, was measured to use 3.00 times as much" in found.statement
    assert found.significant is None


def test_a_model_without_positive_net_energy_is_left_out(synthetic, tmp_path):
    def idle_only(run, model, block):
        unknown(run, model, block)
        for span in run["spans"] if model == "LeNet" else ():
            for part in span["energy"]["components"].values():
                part["gross_j"] *= 0.3
        if model == "LeNet":
            for result in run["results"].values():
                for part in result["energy"]["components"].values():
                    part["gross_j"] *= 0.3

    by_id = answers(synthetic, tmp_path / "s", MODELS[:3], change=idle_only)
    net, gross = by_id["models.train.net"], by_id["models.train.gross"]
    assert "take MobileNetV2: " in net.statement
    assert net.statement.endswith(
        "LeNet cannot be compared: net energy is not above 0 in every repeat."
    )
    assert "take LeNet: " in gross.statement
    pair = answers(synthetic, tmp_path / "pair", ["LeNet", "VGG16"], change=idle_only)
    assert pair["models.train.net"].statement.startswith("Which of 2 models uses the least net ")
    assert math.isnan(pair["models.train.net"].estimate)


def test_there_is_one_answer_for_each_setting_phase_and_energy(factors):
    found = [one for one in factors.findings if one.id.startswith("models.")]
    keys = [(one.study, one.setting, one.id) for one in found]
    assert len(keys) == len(set(keys)) == 6 * 2 * 2
    assert not [one for one in factors.findings if one.id.startswith("front.")]
    chosen = factors.model_ratios[factors.model_ratios["to_choice"]]
    for _, part in chosen.groupby(["group", "phase", "quantity"]):
        (choice,) = set(part["other"])
        (finding,) = [
            one for one in found
            if one.groups == (part["group"].iloc[0],)
            and one.id == f"models.{part['phase'].iloc[0]}.{part['quantity'].iloc[0]}"
        ]  # fmt: skip
        assert f"Take {choice}" in finding.statement
