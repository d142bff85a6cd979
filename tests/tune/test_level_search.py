"""The search over the levels of one knob, on curves whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.errors import UserError
from joulelab.tune.level_search import MOST_LEVELS, MOST_PER_LEVEL, TOLERANCE, LevelSearch
from joulelab.tune.probes import Knob, Probe

# ResNet-50 on ImageNet, batch size 256, Adadelta, one epoch on a V100 (s and W at each limit in W).
# From ml-energy/zeus, commit 75a8b939, Apache-2.0.
LIMITS = (100, 125, 150, 175, 200, 225, 250)
TIMES_S = (6781.17, 5064.97, 4148.66, 3852.18, 3700.97, 3584.30, 3514.99)
POWERS_W = (98.382, 121.966, 144.595, 166.372, 184.944, 205.438, 220.250)


def knob(levels=LIMITS, baseline=None):
    return Knob("power_limit", levels, levels[-1] if baseline is None else baseline, is_limit=True)


def run(search, times_s, energies_j, noise=0.0, seed=0, uncertainty=math.nan):
    truth = dict(zip(search.knob.levels, zip(times_s, energies_j, strict=True), strict=True))
    return run_on(truth, search, noise, seed, uncertainty)


def run_on(truth, search, noise=0.0, seed=0, uncertainty=math.nan):
    rng = np.random.default_rng(seed)
    while (chosen := search.next()) is not None:
        assert chosen == search.next()
        time_s, energy_j = truth[chosen["power_limit"]] * np.maximum(
            1 + noise * rng.standard_normal(2), 0.01
        )
        search.add(Probe(chosen, time_s, energy_j, uncertainty * time_s, uncertainty * energy_j))
    return search.result()


ENERGIES_J = tuple(time * power for time, power in zip(TIMES_S, POWERS_W, strict=True))


@pytest.mark.parametrize(
    ("max_slowdown", "best"), [(0.0, 250), (0.03, 225), (0.06, 200), (0.12, 175), (0.25, 150)]
)
def test_the_best_level_within_each_bound_is_found_without_noise(max_slowdown, best):
    result = run(LevelSearch(knob(), max_slowdown), TIMES_S, ENERGIES_J)
    assert result.settings == {"power_limit": best}
    at = LIMITS.index(best)
    assert result.slowdown.low <= TIMES_S[at] / TIMES_S[-1] - 1 <= result.slowdown.high
    assert result.saving.low <= 1 - ENERGIES_J[at] / ENERGIES_J[-1] <= result.saving.high


def test_levels_that_cannot_win_are_not_measured():
    for seed in range(4):
        search = LevelSearch(knob(), 0.03, seed=seed)
        run(search, TIMES_S, ENERGIES_J, noise=0.003, seed=seed)
        measured = [probe.settings["power_limit"] for probe in search.probes]
        assert sum(level <= 150 for level in measured) <= 2


def test_the_same_seed_gives_the_same_search():
    first, second = LevelSearch(knob(), 0.05, seed=5), LevelSearch(knob(), 0.05, seed=5)
    results = [run(one, TIMES_S, ENERGIES_J, noise=0.01) for one in (first, second)]
    assert [one.settings for one in first.probes] == [one.settings for one in second.probes]
    assert results[0] == results[1]


curves = st.integers(1, 9).flatmap(
    lambda size: st.tuples(
        st.lists(st.floats(1.0, 4.0), min_size=size, max_size=size),
        st.lists(st.floats(50.0, 200.0), min_size=size, max_size=size),
    )
)


@settings(max_examples=25, deadline=None)
@given(curves, st.sampled_from([0.0, 0.02, 0.05, 0.25]), st.integers(0, 5))
def test_any_curve_without_noise(curve, max_slowdown, seed):
    """No trend, bumps and time that rises with the limit: the choice keeps the bound anyway."""
    times_s, powers_w = curve
    energies_j = np.multiply(times_s, powers_w)
    levels = tuple(range(100, 100 + 25 * len(times_s), 25))
    search = LevelSearch(knob(levels), max_slowdown, seed=seed)
    result = run(search, times_s, energies_j)
    at = levels.index(result.settings["power_limit"])
    assert times_s[at] / times_s[-1] - 1 <= max_slowdown + 2 * TOLERANCE
    assert energies_j[at] <= energies_j[-1]
    assert result.saving.low <= result.saving.value <= result.saving.high
    assert result.slowdown.low <= result.slowdown.value <= result.slowdown.high
    assert 1 <= result.probes <= MOST_PER_LEVEL * len(levels)
    durations = [point.duration_s.value for point in result.front]
    assert durations == pytest.approx(sorted(durations), rel=2e-3)
    assert result.settings in [point.settings for point in result.front]
    if at == len(levels) - 1:
        assert "significantly better" in result.reason


@pytest.mark.parametrize(("repeats", "chosen"), [(1, 200), (2, 200), (3, 150)])
def test_a_level_is_chosen_only_after_repeated_probes_of_it_and_the_baseline(repeats, chosen):
    search = LevelSearch(Knob("batch_size", (150, 200), 200), 0.05)
    for level, energy_j in ((200, 100.0), (150, 80.0)) * repeats:
        search.add(Probe({"batch_size": level}, 1.0, energy_j))
    result = search.result()
    assert result.settings == {"batch_size": chosen}
    assert ("batch size 150 may be, with more probes" in result.reason) is (chosen == 200)


@pytest.mark.parametrize("kind", [LIMITS, ("a", "b", "c", "d")])
def test_levels_that_do_not_differ_are_not_chosen_for_their_noise(kind):
    def chosen(saving, seed):
        search = LevelSearch(
            Knob("power_limit", kind, kind[-1], is_limit=kind is LIMITS), 0.05, seed=seed
        )
        truth = dict.fromkeys(kind, (1.0, 100.0 * (1 - saving))) | {kind[-1]: (1.0, 100.0)}
        result = run_on(truth, search, noise=0.01, seed=seed)
        assert (result.saving.low > 0) is (result.settings != result.baseline)
        return result.settings != result.baseline

    assert sum(chosen(0.0, seed) for seed in range(20)) <= 2
    assert sum(chosen(0.06, seed) for seed in range(5)) >= 4


def test_one_level_needs_no_more_than_its_probe():
    result = run(LevelSearch(knob((250,)), 0.05), (1.0,), (100.0,))
    assert result.settings == result.baseline == {"power_limit": 250}
    assert (result.saving.value, result.slowdown.value) == (0.0, 0.0)


def test_of_many_levels_some_are_searched_with_few_probes():
    levels = tuple(range(210, 2010, 15))
    times_s = 1 + 0.9 * np.maximum(0.8 - np.array(levels) / levels[-1], 0) ** 1.5
    energies_j = times_s * (60 + 200 * (np.array(levels) / levels[-1]) ** 2)
    search = LevelSearch(knob(levels), 0.05)
    result = run_on(dict(zip(levels, zip(times_s, energies_j, strict=True), strict=True)), search)
    at = levels.index(result.settings["power_limit"])
    assert times_s[at] <= 1.05 + TOLERANCE
    keeps = (times_s <= 1.05) & np.isin(levels, search.knob.levels)
    assert energies_j[at] <= 1.01 * energies_j[keeps].min()
    assert len(search.knob.levels) <= MOST_LEVELS + 1
    assert result.probes <= 30


def test_huge_noise_is_no_saving():
    flat = np.ones(7)
    savings = []
    for seed in range(5):
        search = LevelSearch(knob(), 0.05, seed=seed)
        result = run(search, flat, 100 * flat, noise=0.3, seed=seed)
        assert len(search.probes) <= search.max_probes
        savings.append(result.saving.low)
    assert np.mean(np.array(savings) <= 0) >= 0.8


def test_stated_uncertainties_widen_the_intervals():
    plain = run(LevelSearch(knob(), 0.06, max_probes=7), TIMES_S, ENERGIES_J)
    stated = run(LevelSearch(knob(), 0.06, max_probes=7), TIMES_S, ENERGIES_J, uncertainty=0.01)
    width = [one.slowdown.high - one.slowdown.low for one in (plain, stated)]
    assert width[1] > 1.5 * width[0] or stated.settings == stated.baseline


def test_levels_without_order_and_energy_times_time():
    precision = Knob("precision", ("fp32", "tf32", "bf16"), "fp32")
    search = LevelSearch(precision, 0.0, objective="edp")
    truth = {"fp32": (1.0, 100.0), "tf32": (0.6, 80.0), "bf16": (0.5, 85.0)}
    while (chosen := search.next()) is not None:
        search.add(Probe(chosen, *truth[chosen["precision"]]))
    result = search.result()
    assert result.settings == {"precision": "bf16"}
    assert result.saving.low <= 0.15 <= result.saving.high
    assert result.slowdown.high < 0


def test_settings_that_cannot_be_measured_are_left_out():
    search = LevelSearch(knob(), 0.06)
    while (chosen := search.next()) is not None:
        level = chosen["power_limit"]
        if level == 200:
            search.leave_out(chosen)
            continue
        at = LIMITS.index(level)
        search.add(Probe(chosen, TIMES_S[at], ENERGIES_J[at]))
    result = search.result()
    assert result.settings == {"power_limit": 225}
    with pytest.raises(UserError, match="baseline cannot be measured"):
        search.leave_out({"power_limit": 250})


def test_a_request_that_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="objective"):
        LevelSearch(knob(), 0.05, objective="speed")
    with pytest.raises(UserError, match="negative"):
        LevelSearch(knob(), -0.05)
    with pytest.raises(UserError, match="baseline was not measured"):
        LevelSearch(knob(), 0.05).result()
