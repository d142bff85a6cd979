"""A short part of the campaign of damaged and invented files; see benchmarks/faults."""

import random

import pytest
from benchmarks.faults.damaged_inputs import WrongEnergy, check_values, run, table
from benchmarks.faults.mutations import JSON, RARE, TABLES


def test_no_damaged_file_gives_a_foreign_error_or_an_impossible_energy():
    tallies = run(300, seed=20261129)
    assert [f"{name}: {text}" for name, one in tallies.items() for text in one.wrong] == []
    assert all(one.inputs == one.read + one.refused > 0 for one in tallies.values())
    total = sum(one.inputs for one in tallies.values())
    assert f"| all | {total} |" in table(tallies)


def test_a_block_number_that_no_table_can_hold_is_refused():
    """It was found by this seed."""
    (tally,) = run(26_000, seed=605, names=["study"], only=105).values()
    assert tally.inputs == 1
    assert tally.wrong == []


def test_centuries_whose_energy_is_known_from_a_counter_take_no_time():
    """It was found by this seed."""
    (tally,) = run(60_000, seed=202, names=["watched readings"], only=124).values()
    assert (tally.inputs, tally.wrong) == (1, [])


def test_readings_that_are_corrected_beyond_all_numbers_are_refused():
    """It was found by this seed."""
    (tally,) = run(60_000, seed=404, names=["trace header"], only=2386).values()
    assert (tally.inputs, tally.wrong) == (1, [])


@pytest.mark.parametrize("mutation", sorted({*JSON, *TABLES, *RARE}, key=lambda one: one.__name__))
def test_each_kind_of_damage_damages_any_file(mutation):
    """An empty file, too, and the same seed always does the same."""
    sound = b'{"a": [1, 2.5], "b": {"c": "x"}}\n{"a": 7}\n'
    damaged = {mutation(random.Random(seed), sound) for seed in range(20)}
    assert damaged - {sound}
    assert mutation(random.Random(5), sound) == mutation(random.Random(5), sound)
    mutation(random.Random(1), b"")


@pytest.mark.parametrize(
    "values",
    [(-1.0, 0.0, 1.0), (float("inf"), 0.0, 1.0), (1.0, None, None), (None, 1.0, 2.0), (5, 1, 2)],
)
def test_impossible_energies_are_recognised(values):
    with pytest.raises(WrongEnergy):
        check_values("x", *values)
    check_values("x", 1.5, 1.0, 2.0)
    check_values("x", None, None, None)
