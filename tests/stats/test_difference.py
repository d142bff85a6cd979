"""Differences of groups, compared with SciPy and with simulated truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from joulelab.stats.difference import Cell, Difference, Repeats, difference
from joulelab.uncertain import UncertainValue

# SciPy warns of values that differ only by their last digits.
VALUES = st.lists(st.floats(1.0, 1e6, width=32), min_size=2, max_size=8, unique=True)


@given(VALUES, VALUES)
def test_repeats_in_both_groups_are_welchs_test(a, b):
    found = difference([Cell(Repeats.of(*a), Repeats.of(*b))])
    expected = stats.ttest_ind(b, a, equal_var=False)
    assert found.test == "Welch's t test"
    assert found.p == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-9)
    low, high = expected.confidence_interval(0.9)
    assert found.interval(0.9) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


@given(VALUES, st.floats(1.0, 1e6))
def test_one_run_against_repeats_is_a_prediction(values, one):
    found = difference([Cell(Repeats.of(*values), Repeats.of(one))])
    n, sd = len(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.975, n - 1) * sd * math.sqrt(1 + 1 / n)
    middle = one - np.mean(values)
    assert found.test == "Student's t test of one run"
    assert found.interval(0.95) == pytest.approx((middle - half, middle + half))


def test_cells_without_repeats_are_paired():
    a, b = [10.0, 20.0, 33.0, 41.0], [11.0, 23.0, 33.0, 45.0]
    cells = [Cell(Repeats.of(x), Repeats.of(y)) for x, y in zip(a, b, strict=True)]
    found, expected = difference(cells), stats.ttest_rel(b, a)
    assert found.test == "paired t test over 4 cells"
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval(0.95) == pytest.approx(tuple(expected.confidence_interval(0.95)))


BLOCK_VALUES = st.lists(
    st.tuples(st.floats(1.0, 1e3), st.floats(1.0, 1e3), st.floats(1.0, 1e3), st.floats(1.0, 1e3)),
    min_size=2,
    max_size=6,
    unique_by=lambda row: row[0] + row[1] - row[2] - row[3],
)


@given(BLOCK_VALUES)
def test_repeats_in_the_same_blocks_are_paired_within_them(rows):
    def repeats(values):
        return Repeats(tuple(map(UncertainValue, values)), tuple(range(len(values))))

    a1, a2, b1, b2 = zip(*rows, strict=True)
    one = difference([Cell(repeats(a1), repeats(b1))])
    assert one.test == f"paired t test over {len(rows)} blocks"
    assert one.value == pytest.approx(np.mean(np.subtract(b1, a1)), abs=1e-9)
    two = difference([Cell(repeats(a1), repeats(b1)), Cell(repeats(a2), repeats(b2))])
    expected = stats.ttest_rel(np.add(b1, b2) / 2, np.add(a1, a2) / 2)
    assert two.test == f"paired t test over {len(rows)} blocks of the mean over 2 cells"
    assert two.df == len(rows) - 1
    low, high = expected.confidence_interval(0.9)
    assert two.interval(0.9) == pytest.approx((low, high), rel=1e-6, abs=1e-6)


def test_the_gain_of_a_sensor_cancels_within_a_block():
    def repeats(*values):
        causes = {"gain": 0.05}
        return Repeats(
            tuple(
                UncertainValue(one, {name: one * u for name, u in causes.items()}) for one in values
            ),
            (0, 1, 2),
        )

    found = difference([Cell(repeats(100.0, 110.0, 90.0), repeats(101.0, 111.5, 90.5))])
    assert found.value == pytest.approx(1.0)
    assert found.shared == pytest.approx(0.05)
    assert found.scatter == pytest.approx(0.5 / 3**0.5)


def test_cells_of_one_model_are_not_independent():
    cells = [
        Cell(Repeats.of(10.0), Repeats.of(value), unit=model)
        for model, value in (("a", 11.0), ("a", 11.2), ("a", 11.1), ("b", 10.2))
    ]
    found = difference(cells)
    assert found.test == "paired t test over 2 units"
    assert found.df == 1
    assert found.value == pytest.approx((1.1 + 0.2) / 2)


def test_one_run_in_each_group_is_not_tested_unless_the_scatter_is_given():
    cell = Cell(
        Repeats((UncertainValue(100.0, own=1.0),), (0,)),
        Repeats((UncertainValue(110.0, own=1.0),), (1,)),
    )
    found = difference([cell])
    assert not found.is_tested
    assert found.test == ""
    assert math.isnan(found.p)
    assert math.isnan(found.detectable(0.95))
    assert found.interval(0.95) == pytest.approx((10 - 1.959964 * 2**0.5, 10 + 1.959964 * 2**0.5))
    stated = difference([cell], assumed_sd=2.0)
    assert stated.half_width(0.95) == pytest.approx(1.959964 * 2.0 * 2**0.5)
    assert stated.p == pytest.approx(2 * stats.norm.sf(10 / (2 * 2**0.5)))


@pytest.mark.parametrize("missing", [(0,), (0, 3, 7)])
def test_blocks_count_where_a_run_is_missing(missing):
    """Twelve cells in two blocks that differ: without repeats in a cell, blocks are not lost."""
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(200):
        sides = []
        for side in ("a", "b"):
            values = rng.normal(0, 1, (1, 2)) + 0.2 * rng.normal(0, 1, (12, 2))
            runs = [range(1 if side == "a" and cell in missing else 2) for cell in range(12)]
            sides.append([
                Repeats(
                    tuple(UncertainValue(values[cell, block]) for block in blocks),
                    tuple((side, block) for block in blocks),
                )
                for cell, blocks in enumerate(runs)
            ])  # fmt: skip
        found = difference([Cell(*pair) for pair in zip(*sides, strict=True)])
        assert found.test == "Welch's t test of the mean over 12 cells"
        wrong += found.p < 0.05
    assert wrong <= 20


def test_what_a_block_shares_is_one_error():
    rng = np.random.default_rng(5)
    blocks = rng.normal(0, 1, (2, 3))
    cells = [
        Cell(
            *(
                Repeats(
                    tuple(UncertainValue(10 * cell + x) for x in side),
                    tuple((index, block) for block in range(3)),
                )
                for index, side in enumerate(blocks)
            )
        )
        for cell in range(20)
    ]
    found, expected = difference(cells), stats.ttest_ind(blocks[1], blocks[0], equal_var=False)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.df == pytest.approx(expected.df)


def test_cells_without_common_blocks_add_their_variances():
    rng = np.random.default_rng(6)
    a, b = rng.normal(10, 1, (2, 5, 4))
    cells = [
        Cell(
            Repeats(tuple(map(UncertainValue, x)), tuple((cell, i) for i in range(4))),
            Repeats(tuple(map(UncertainValue, y)), tuple((cell, i) for i in range(4, 8))),
        )
        for cell, (x, y) in enumerate(zip(a, b, strict=True))
    ]
    variances = np.concatenate([a.var(axis=1, ddof=1), b.var(axis=1, ddof=1)])
    found = difference(cells)
    assert found.scatter == pytest.approx(math.sqrt(variances.sum() / 4) / 5)
    assert found.df == pytest.approx(variances.sum() ** 2 / (variances**2 / 3).sum())


@pytest.mark.parametrize(("board", "expected"), [("one", 0.0), ("other", math.hypot(5.0, 5.5))])
def test_a_gain_cancels_only_on_the_same_board(board, expected):
    a = UncertainValue(100.0, {("gain", "one"): 5.0})
    b = UncertainValue(110.0, {("gain", board): 5.5})
    cell = Cell(Repeats((a,), (0,)), Repeats((b,), (1,)))
    on_values, on_logs = difference([cell]), difference([cell.logarithms()])
    assert on_values.shared == pytest.approx(0.5 if board == "one" else expected)
    assert on_logs.shared == pytest.approx(0.0 if board == "one" else 0.05 * 2**0.5)


def test_a_gain_of_one_part_moves_a_total_whose_shares_change():
    a = UncertainValue(100.0, {"gpu": 0.1 * 50, "cpu": 0.0})
    b = UncertainValue(100.0, {"gpu": 0.1 * 90, "cpu": 0.0})
    found = difference([Cell(Repeats((a,), (0,)), Repeats((b,), (1,))).logarithms()])
    assert found.shared == pytest.approx(0.1 * (0.9 - 0.5))


@given(st.floats(-5, 5), st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 1), st.integers(1, 40))
def test_p_is_where_the_interval_reaches_no_difference(value, shared, own, scatter, df):
    found = Difference(value, shared, own, scatter, float(df), "a test")
    assert 0 <= found.p <= 1
    if 1e-9 < found.p < 1 - 1e-9:
        assert found.half_width(1 - found.p) == pytest.approx(abs(value), rel=1e-6)
    assert (found.p < 0.05) == (found.half_width(0.95) < abs(value))


@pytest.mark.parametrize("n", [2, 3, 10])
def test_detectable_difference_is_that_of_statsmodels(n):
    found = Difference(0.0, 0.0, 0.0, 0.02 * math.sqrt(2 / n), 2 * n - 2.0, "Welch's t test")
    effect = TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=0.8)
    assert found.detectable(0.95) == pytest.approx(0.02 * effect, rel=1e-3)


@pytest.mark.parametrize(
    ("n_a", "n_b", "cells", "same_board", "block_sd"),
    [(3, 3, 1, True, 0.0), (3, 3, 1, False, 0.0), (6, 1, 1, True, 0.0), (3, 3, 8, True, 0.02)],
)
def test_coverage_of_the_interval_without_a_difference(n_a, n_b, cells, same_board, block_sd):
    """5 % of 2000 draws is 100 ± 10; the limit is three of those above."""
    rng = np.random.default_rng(11)
    draws, gain_sd, run_sd = 2000, 0.03, 0.02
    missed = 0
    for _ in range(draws):
        gains = rng.normal(0, gain_sd, 2)
        drawn = []
        for side, n in enumerate((n_a, n_b)):
            board = 0 if same_board else side
            in_block = rng.normal(0, block_sd, n)
            logs = gains[board] + in_block + rng.normal(0, run_sd, (cells, n))
            drawn.append(
                [
                    Repeats(
                        tuple(UncertainValue(x, {board: gain_sd}) for x in row),
                        tuple((side, i if block_sd else (cell, i)) for i in range(n)),
                    )
                    for cell, row in enumerate(logs)
                ]
            )
        found = difference([Cell(a, b) for a, b in zip(*drawn, strict=True)])
        missed += found.half_width(0.95) < abs(found.value)
    assert missed <= 130
    assert missed >= 20
