import math

import pytest

from joulelab.findings.summary import QUANTITIES, summary, varying
from joulelab.findings.tables import StudyTables
from joulelab.stats.estimates import estimate


def run_rows(directories):
    return StudyTables.read(directories).runs


@pytest.fixture(scope="module")
def rows(tmp_path_factory, synthetic):
    directory = tmp_path_factory.mktemp("summary") / "study"
    synthetic.write_study(directory, models=["LeNet", "VGG16"], repeats=3)
    return run_rows([directory])


def test_one_row_per_model_and_phase(rows):
    table = summary(rows)
    assert list(zip(table["model"], table["phase"], table["n"], strict=True)) == [
        ("LeNet", "train", 3),
        ("LeNet", "infer", 3),
        ("VGG16", "train", 3),
        ("VGG16", "infer", 3),
    ]


def test_means_and_intervals_by_hand(rows):
    train = summary(rows).iloc[0]
    # 840 J, 2 % and 4 % longer; the gain's 46.86 J grows likewise, the edges stay
    assert train["gross_j"] == pytest.approx(840 * 1.02)
    gain_j = math.hypot(36, 30)
    by_hand = estimate(
        [840, 840 * 1.02, 840 * 1.04],
        correlated=[gain_j, gain_j * 1.02, gain_j * 1.04],
        independent=[math.sqrt(6)] * 3,
    )
    assert train["gross_j_low"] == pytest.approx(by_hand.low)
    assert train["gross_j_high"] == pytest.approx(by_hand.high)
    assert train["gross_j_per_sample"] == pytest.approx(840 * 1.02 / 3000)
    assert train["mean_power_w"] == pytest.approx(350)
    assert train["accuracy_pct"] == pytest.approx(81)
    assert train["duration_s_per_sample"] == pytest.approx(2.4 * 1.02 / 3000)


def test_net_energy_is_at_most_gross_energy(rows):
    table = summary(rows.assign(net_correlated_uncertainty_j=1e6))
    assert table["net_j_high"].tolist() == table["gross_j_high"].tolist()
    assert (table["net_j_low"] < -1e6).all()


def test_every_quantity_lies_in_its_interval(rows):
    table = summary(rows)
    for name in (one.name for one in QUANTITIES):
        if name.endswith("_per_token"):  # of images, which have none
            assert table[name].isna().all()
            continue
        assert (table[f"{name}_low"] <= table[name]).all(), name
        assert (table[name] <= table[f"{name}_high"]).all(), name
        assert (table[f"{name}_n"] == 3).all(), name


def test_different_machines_are_never_averaged(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "two", repeats=2)
    writer.cell("LeNet", 0)
    writer.machine = synthetic.other_machine(cpu_model="Intel(R) Core(TM) i5-12500")
    writer.cell("LeNet", 1)
    table = summary(run_rows([writer.directory]))
    assert list(table["n"]) == [1, 1, 1, 1]
    assert table["machine"].nunique() == 2


def test_different_sensors_are_never_averaged(tmp_path, synthetic, monkeypatch):
    writer = synthetic.Writer(tmp_path / "two", repeats=2)
    writer.cell("LeNet", 0)
    monkeypatch.setitem(synthetic.SOURCE, "cpu:0", "rapl.package-0")
    writer.cell("LeNet", 1)
    assert list(summary(run_rows([writer.directory]))["n"]) == [1, 1, 1, 1]


def test_levels_are_never_averaged(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "levels")
    for batch_size in (8, 16):
        writer.cell("LeNet", 0, batch_size=batch_size)
    rows = run_rows([writer.directory])
    assert varying(rows) == ["batch_size"]
    assert list(summary(rows)["batch_size"]) == [8, 8, 16, 16]


def test_a_repeat_without_baseline_counts_for_gross_only(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "partly", repeats=2)
    writer.idle(0, "before")
    writer.cell("LeNet", 0)
    writer.cell("LeNet", 1)
    train = summary(run_rows([writer.directory])).iloc[0]
    assert (train["gross_j_n"], train["net_j_n"]) == (2, 1)
    assert train["net_j"] == pytest.approx(840 - 130 * 2.4)


def test_no_runs_give_an_empty_table_with_its_columns(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "empty")
    table = summary(run_rows([writer.directory]))
    assert table.empty
    assert {"model", "gross_j_low", "n"} <= set(table.columns)


def test_intervals_end_where_a_quantity_ends(tmp_path, synthetic):
    writer = synthetic.Writer(tmp_path / "wide", repeats=2)

    def accuracy_pct(value):
        return lambda run: run["results"]["train"].update(accuracy_pct=value)

    writer.cell("LeNet", 0, change=accuracy_pct(92.0))
    writer.cell("LeNet", 1, stretch=3.0, change=accuracy_pct(99.0))
    train = summary(run_rows([writer.directory])).iloc[0]
    assert train["gross_j_low"] == 0
    assert train["accuracy_pct_high"] == 100
    assert train["accuracy_pct_low"] > 0


def test_an_interval_includes_its_value_where_gross_energy_lacks_runs(rows):
    """Net energy is at most gross energy, but not where other runs have it."""
    runs = rows.copy()
    train = runs.index[(runs["model"] == "LeNet") & (runs["phase"] == "train")]
    runs.loc[train[1:], "gross_j"] = float("nan")
    runs.loc[train[0], "gross_j"] = 1.0
    row = summary(runs).iloc[0]
    assert row["net_j_low"] <= row["net_j"] <= row["net_j_high"]
    runs["net_j"] = float("nan")
    unknown = summary(runs)[["net_j", "net_j_low", "net_j_high"]]
    assert unknown.isna().all(axis=None)
