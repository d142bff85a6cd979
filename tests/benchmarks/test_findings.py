"""A short part of the benchmark of findings: studies without and with an effect."""

import math

import pytest
from benchmarks.findings import CASES, is_impossible, run_case, table

from joulelab.findings.schema import Finding
from joulelab.stats import ranks

SEEDS = {
    "models: which uses least": 6,
    "factors: precision": 6,
    "batch size: floor": 4,
    "training over inference": 6,
    "machines: ratio of energy": 5,
    "accuracy and energy": 4,
    "knee of utilisation": 20,
    "last epochs": 40,
    "compare two studies": 15,
    "compare two groups of runs": 40,
}


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """The benchmark sets the number of resamples."""
    for name in ("RESAMPLES", "FEWEST_RESAMPLES"):
        monkeypatch.setattr(ranks, name, getattr(ranks, name))


@pytest.mark.parametrize("name", SEEDS)
def test_nulls_are_not_claimed_and_effects_are_found(name):
    seeds = range(2000, 2000 + SEEDS[name])
    null, effect = run_case(name, False, seeds), run_case(name, True, seeds)
    assert null["studies claimed"] <= 1 + 0.12 * null["studies"]
    assert effect["claimed"] >= 0.75 * effect["findings"]
    assert effect["wrong sign"] == null["impossible"] == effect["impossible"] == 0
    for found in (null, effect):
        assert found["covered"] >= 0.85 * found["known"] - 1


def test_impossible_intervals_are_recognised():
    def of(name, low, high, unit="1"):
        return Finding(id=name, question="", statement="", low=low, high=high, unit=unit)

    assert is_impossible(of("ratio.time", -0.1, 2.0))
    assert is_impossible(of("spearman.train.net.macs", 0.5, 1.2))
    assert is_impossible(of("efficient.train.net", 5.0, 101.0, "%"))
    assert not is_impossible(of("efficient.train.net", -math.inf, 90.0, "%"))
    assert not is_impossible(of("ratio.time", math.nan, math.nan))


def test_the_table_has_a_row_for_each_question():
    results = {(name, effect): run_case(name, effect, range(1)) for name in ["last epochs"]
               for effect in (False, True)}  # fmt: skip
    assert table(results).splitlines()[-1].startswith("| last epochs | ")
    assert set(SEEDS) <= set(CASES)
