"""The benchmark of tuning on a few of its curves."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.tuning import BROKEN, least_energy, lowest_limit, markdown, read_curves, search

INPUTS = Path(__file__).parents[1] / "tune" / "inputs"


@pytest.fixture(scope="module")
def curves():
    return [curve for gpu in ("v100", "a40") for curve in read_curves(INPUTS / f"power_{gpu}.csv")]


def test_curves_are_read_in_the_order_of_limits(curves):
    assert [len(curve.limits) for curve in curves] == [7] * 4 + [9] * 4
    resnet = next(curve for curve in curves if curve.gpu == "A40" and curve.times_s[-1] > 5000)
    assert resnet.limits == tuple(range(100, 301, 25))


def test_without_noise_all_rules_keep_the_bound_and_least_energy_is_the_best(curves):
    for curve in curves:
        for rule in (lowest_limit, least_energy, search):
            choice = rule(curve, 0.05, 0.0, 0).choice
            assert curve.slowdown(choice) <= 0.05 + BROKEN
        best = least_energy(curve, 0.05, 0.0, 0).choice
        assert curve.energies_j[best] == curve.least_energy_j(0.05)


@pytest.mark.parametrize(("noise", "most_probes"), [(0.01, 1.5), (0.003, 1.0)])
def test_the_search_needs_few_probes_and_states_honest_intervals(curves, noise, most_probes):
    outcomes = [(curve, search(curve, 0.05, noise, seed)) for curve in curves for seed in range(2)]
    excess = [c.energies_j[one.choice] / c.least_energy_j(0.05) - 1 for c, one in outcomes]
    assert np.mean(excess) <= 0.008
    assert max(c.slowdown(one.choice) for c, one in outcomes) <= 0.05 + 0.03
    assert np.mean([one.probes / len(c.limits) for c, one in outcomes]) <= most_probes
    assert np.mean([one.covers_saving for _, one in outcomes]) >= 0.85


def test_the_page_has_a_row_for_each_rule(curves, monkeypatch):
    monkeypatch.setattr("benchmarks.tuning.MAX_SLOWDOWNS", (0.05,))
    monkeypatch.setattr("benchmarks.tuning.NOISES", (0.003,))
    page = markdown(curves[:1], seeds=1)
    for label in ("lowest limit", "least energy", "joulelab tune"):
        assert f"| 5% | 0.3% | all | {label} |" in page
