"""The questions of the paper, asked of studies whose answers are known."""

import math

import numpy as np
import pandas as pd
import pytest

from joulelab.findings.all import analyze
from joulelab.findings.tables import StudyTables

ZOO = ("LeNet", "MobileNetV2", "ResNet18", "VGG16", "MobileNet", "SENet18", "VGG19", "DPN26")


def study(synthetic, directory, cells, repeats=2, machine=None, **plan):
    """A study of these cells: (model, options of Writer.cell), repeated in blocks."""
    models = list(dict.fromkeys(model for model, _ in cells))
    machine = machine or synthetic.MACHINE
    writer = synthetic.Writer(directory, machine=machine, models=models, repeats=repeats, **plan)
    for block in range(repeats):
        writer.idle(block, "before")
        for model, options in cells:
            writer.cell(model, block, **options)
        writer.idle(block, "after")
    return directory


def answered(*directories):
    found = analyze(StudyTables.read(directories))
    return found, {finding.id: finding for finding in found.findings}


def set_accuracy(train_pct, infer_pct=None):
    def change(run):
        run["results"]["train"]["accuracy_pct"] = train_pct
        run["results"]["infer"]["accuracy_pct"] = infer_pct

    return change


def test_phase_ratio_by_hand(tmp_path, synthetic):
    found, by_id = answered(study(synthetic, tmp_path / "s", [(m, {}) for m in ZOO]))
    rows = found.phase_ratios.set_index(["model", "quantity"])["estimate"]
    # 4 s against 1 s an epoch, 350 W against 245 W
    assert rows["VGG16", "time"] == pytest.approx(4.0)
    assert rows["VGG16", "gross"] == pytest.approx(4.0 * 350 / 245)
    assert by_id["ratio.time"].estimate == pytest.approx(4.0)


def test_energy_over_time_is_the_power(tmp_path, synthetic):
    cells = [(m, {"stretch": 1 + i}) for i, m in enumerate(ZOO)]
    found, by_id = answered(study(synthetic, tmp_path / "s", cells))
    fit = found.time_fits.set_index(["phase", "quantity"]).loc[("train", "gross")]
    assert fit["slope_w"] == pytest.approx(350)
    # Models that lie on a line still share the scale of the sensors.
    mean = found.tables.summary.query("phase == 'train'").iloc[0]
    shared = mean["gross_j_high"] / mean["gross_j"] - 1
    assert shared > 0.05
    assert fit["slope_high_w"] == pytest.approx(350 * (1 + shared), rel=1e-3)
    assert fit["intercept_j"] == pytest.approx(0, abs=1e-6)
    assert fit["typical_error_pct"] == pytest.approx(0, abs=1e-6)
    assert by_id["linear.train.gross"].unit == "W"
    assert len(found.time_points) == 4 * len(ZOO)


def test_power_against_the_limits(tmp_path, synthetic):
    found, by_id = answered(study(synthetic, tmp_path / "s", [("VGG16", {})]))
    powers = found.component_power.set_index(["phase", "component"])
    assert powers.loc[("train", "gpu"), "share_pct"] == pytest.approx(100 * 300 / 350)
    assert powers.loc[("infer", "cpu"), "share_pct"] == pytest.approx(100 * 45 / 125)
    assert "with 0 of 1 model above 90 %" in by_id["power.train.gpu"].statement


def test_batch_size_of_least_energy_and_its_floor(tmp_path, synthetic):
    def cost(batch_size):
        return 1 + 8 / batch_size + (0.2 if batch_size == 1024 else 0)

    sizes = (8, 64, 256, 512, 1024)
    cells = [(m, {"stretch": cost(b), "batch_size": b}) for m in ZOO[:4] for b in sizes]
    found, by_id = answered(study(synthetic, tmp_path / "s", cells))
    floors = found.batch_floors[found.batch_floors["quantity"] == "gross"]
    assert floors["best_batch_size"].eq(512).all()
    assert floors["floor_batch_size"].eq(256).all()
    saved = 100 * (1 - cost(512) / cost(8))
    assert floors["saving_pct"].tolist() == pytest.approx([saved] * 8, rel=1e-6)
    assert by_id["batch.train.gross"].estimate == 256
    curve = found.batch_curves.query("model == 'VGG16' and phase == 'train' and quantity == 'net'")
    assert curve["batch_size"].tolist() == list(sizes)
    assert curve["at_floor"].tolist() == [False, False, True, True, False]
    assert "largest" not in by_id["batch.train.gross"].statement


def test_best_at_the_largest_size_is_stated(tmp_path, synthetic):
    cells = [("VGG16", {"stretch": 1 + 8 / b, "batch_size": b}) for b in (8, 16, 32)]
    _, by_id = answered(study(synthetic, tmp_path / "s", cells))
    assert "largest that was measured" in by_id["batch.train.gross"].statement


def test_front_and_most_efficient_choice(tmp_path, synthetic):
    accuracies = {"LeNet": 60.0, "MobileNetV2": 89.0, "ResNet18": 90.0, "VGG16": 80.0}
    cells = [(m, {"change": set_accuracy(a)}) for m, a in accuracies.items()]
    found, by_id = answered(study(synthetic, tmp_path / "s", cells, repeats=1))
    rows = found.accuracy.query("phase == 'train' and quantity == 'gross'").set_index("model")
    # In order of energy: LeNet, MobileNetV2, VGG16, ResNet18
    assert rows["on_front"].to_dict() == {
        "LeNet": True, "MobileNetV2": True, "ResNet18": True, "VGG16": False,
    }  # fmt: skip
    # One repeat: Wilson's interval for 360 test images is some ±3.5 points.
    assert rows["equal_to_best"].to_dict() == {
        "LeNet": False, "MobileNetV2": True, "ResNet18": True, "VGG16": False,
    }  # fmt: skip
    assert rows.loc["VGG16", "less_pct"] == pytest.approx(10)
    efficient = by_id["efficient.train.gross"]
    assert efficient.estimate == pytest.approx(70)
    assert efficient.statement == (
        "MobileNetV2 saves 70.0 % over ResNet18; repeats are needed to test it."
    )
    assert efficient.significant is None
    answer = by_id["models.train.gross"]
    assert answer.significant is None
    assert answer.statement.startswith(
        "Take MobileNetV2 if repeats confirm it: it was measured to use the least gross energy per "
        "sample in training of the 2 models whose accuracy 1 repeat cannot distinguish from the "
        "highest (ResNet18, 90.0 %; MobileNetV2, 89.0 %); the next, ResNet18, was measured to use "
        "3.33 times as much. "
    )
    assert answer.statement.endswith(
        "MobileNetV2 uses 3.00 times as much as LeNet (repeats are needed to test it), which is "
        "30.0 (95 % CI 21.8–38.2) points less accurate than ResNet18."
    )
    # Inference has no accuracy of its own: it takes that of training.
    infer = found.accuracy.query("phase == 'infer' and quantity == 'gross'").set_index("model")
    assert infer["accuracy_pct"].to_dict() == accuracies


def test_epochs_mean_range_and_exchange_rate(tmp_path, synthetic, monkeypatch):
    monkeypatch.setattr(synthetic, "EPOCHS", {"train": 8, "infer": 1})
    found, by_id = answered(study(synthetic, tmp_path / "s", [(m, {}) for m in ZOO[:4]]))
    ranges = found.epoch_ranges.set_index(["phase", "quantity", "epoch"])
    # Accuracy 60 + 10 an epoch, and the block's number: 0 or 1
    assert ranges.loc[("train", "accuracy_pct", 2), "mean"] == pytest.approx(80.5)
    # Energy added up: 350 W × 4 s × 1.00 to 0.2 to 2.0 an epoch
    assert ranges.loc[("train", "gross_j", 1), "least"] == pytest.approx(2 * 1400 * 0.2)
    assert ranges.loc[("train", "gross_j", 1), "most"] == pytest.approx(2 * 1400 * 2.0)
    assert ranges.loc[("train", "gross_j", 1), "n"] == 4
    row = found.exchange.set_index("model").loc["VGG16"]
    assert (row["epochs"], row["last_epochs"], row["gain_pct"]) == (8, 2, 20.0)
    assert row["j_per_point"] == pytest.approx(2 * 1400 / 20)
    assert by_id["exchange.train"].estimate == pytest.approx(20)


def test_an_epoch_without_energy_ends_the_sum(tmp_path, synthetic):
    def lost(run):
        run["epochs"][1]["energy"] = None

    found, _ = answered(study(synthetic, tmp_path / "s", [("VGG16", {"change": lost})], repeats=1))
    energies = found.epoch_ranges.query("phase == 'train' and quantity == 'gross_j'")
    assert energies["epoch"].tolist() == [0]


def machines(synthetic, tmp_path, factors, models=ZOO):
    directories = []
    for i, factor in enumerate(factors):
        machine = synthetic.other_machine(host=f"m{i}", cpu_cores=4 + i)
        cells = [(m, {"stretch": factor(k)}) for k, m in enumerate(models)]
        directories.append(study(synthetic, tmp_path / f"m{i}", cells, machine=machine))
    return directories


def test_machines_side_by_side(tmp_path, synthetic):
    directories = machines(synthetic, tmp_path, [lambda k: 1.0 + k, lambda k: 2.0 + 2 * k])
    found, by_id = answered(*directories)
    # Idle power drifts a little, so that net energies are not quite twice as much.
    assert found.side_by_side["ratio"].tolist() == pytest.approx([2.0] * 6 * len(ZOO), rel=1e-3)
    assert (found.side_by_side["low"] <= 2).all()
    assert found.side_by_side["reference"].eq("m0").all()
    assert by_id["machines.ratio.train.time"].estimate == pytest.approx(2.0)
    assert by_id["machines.spearman.train.net"].estimate == pytest.approx(1.0)


def test_concordance_of_three_machines_by_hand(tmp_path, synthetic):
    orders = ((1, 2, 3, 4), (1, 2, 3, 4), (2, 1, 4, 3))
    scale = [synthetic.SCALE[m] for m in ZOO[:4]]
    directories = machines(
        synthetic, tmp_path, [lambda k, o=order: o[k] / scale[k] for order in orders], ZOO[:4]
    )
    found, _ = answered(*directories)
    row = found.agreement.query("method == 'kendall_w' and phase == 'train' and quantity == 'time'")
    ranks = np.array(orders).sum(axis=0)
    by_hand = 12 * ((ranks - ranks.mean()) ** 2).sum() / (9 * (4**3 - 4))
    assert row["estimate"].item() == pytest.approx(by_hand)


def test_machines_without_a_model_in_common_are_not_compared(tmp_path, synthetic):
    one = study(synthetic, tmp_path / "a", [("VGG16", {})])
    other = study(synthetic, tmp_path / "b", [("LeNet", {})],
                  machine=synthetic.other_machine(host="b", cpu_cores=4))  # fmt: skip
    found, by_id = answered(one, other)
    assert found.side_by_side.empty
    assert "no model in common" in by_id["machines"].statement


def test_scatter_of_repeats(tmp_path, synthetic):
    directory = tmp_path / "s"
    writer = synthetic.Writer(directory, models=list(ZOO), repeats=2)
    for block in range(2):
        for i, model in enumerate(ZOO):
            writer.cell(model, block, stretch=1 + (0.02 if (i + block) % 2 else 0.0))
    found, by_id = answered(directory)
    row = found.repeat_scatter.query("phase == 'train' and quantity == 'time'").iloc[0]
    # Pairs of 1 and 1.02: a relative standard deviation of 0.02 / √2 / 1.01
    assert row["scatter_pct"] == pytest.approx(100 * 0.02 / math.sqrt(2) / 1.01, rel=1e-3)
    assert (row["cells"], row["repeats"]) == (8, 16)
    assert "No significant difference between blocks" in by_id["repeats.train.time"].statement


def test_nothing_repeated_is_stated(tmp_path, synthetic):
    _, by_id = answered(study(synthetic, tmp_path / "s", [("VGG16", {})], repeats=1))
    assert "at least two repeats" in by_id["repeats.train.time"].statement
    assert pd.isna(by_id["repeats.train.time"].estimate)
