"""When a polled counter had its new values."""

import numpy as np
import pytest

from joulelab.energy.signal.counters import update_times

PERIOD_S, PHASE_S = 0.1, 0.037


def polled(interval_s, power_w, count=600, late=0.02, seed=1):
    """Polls, the update that each showed, and the counter."""
    rng = np.random.default_rng(seed)
    polls_s = 100 + np.cumsum(interval_s * rng.uniform(1, 1 + late, count))
    true_s = np.floor((polls_s - PHASE_S) / PERIOD_S) * PERIOD_S + PHASE_S
    grid_s = np.arange(99.0, polls_s[-1] + 1, 0.001)
    energy_j = np.concatenate(([0.0], np.cumsum(power_w(grid_s[:-1]) * 0.001)))
    return polls_s, true_s, np.interp(true_s, grid_s, energy_j)


LOADS = {
    "steady": lambda t: np.full_like(t, 300.0),
    "phases": lambda t: np.where(t % 7 < 3, 600.0, 100.0),
    "ramps": lambda t: 350 + 250 * np.sin(2 * np.pi * t / 9),
}


@pytest.mark.parametrize(
    ("load", "interval_s"),
    [*((load, interval_s) for load in LOADS for interval_s in (0.03, 0.1)), ("steady", 0.8)],
)
def test_updates_are_placed(load, interval_s):
    polls_s, true_s, energy_j = polled(interval_s, LOADS[load])
    found = update_times(polls_s, energy_j, PERIOD_S)
    assert found is not None
    off_s = np.abs(found.time_s - true_s[found.keep])
    assert off_s.max() < max(4 * found.uncertainty_s, 0.002)
    assert found.uncertainty_s < 0.006
    assert (np.diff(found.time_s) > 0).all()


@pytest.mark.parametrize("load", ["phases", "ramps"])
def test_few_updates_in_doubt_are_not_told_of_uneven_power_or_said_to_be_uncertain(load):
    polls_s, true_s, energy_j = polled(0.8, LOADS[load])
    found = update_times(polls_s, energy_j, PERIOD_S)
    if found is not None:
        assert np.abs(found.time_s - true_s[found.keep]).max() < 4 * found.uncertainty_s


def test_polls_in_step_with_the_updates_tell_nothing():
    polls_s, _, energy_j = polled(0.1, LOADS["steady"], late=0.0)
    assert update_times(polls_s, energy_j, PERIOD_S) is None


def test_a_fast_counter_and_few_polls_are_let_be():
    polls_s, _, energy_j = polled(0.1, LOADS["steady"])
    assert update_times(polls_s, energy_j, 0.001) is None
    assert update_times(polls_s[:20], energy_j[:20], PERIOD_S) is None


def test_random_power_does_not_make_up_a_phase():
    rng = np.random.default_rng(2)
    levels_w = rng.choice([50.0, 600.0], 100_000)
    off_s, said_s = [], []
    for seed in range(10):
        polls_s, true_s, energy_j = polled(
            0.1, lambda t: levels_w[(t / 0.11).astype(int)], seed=seed
        )
        found = update_times(polls_s, energy_j, PERIOD_S)
        if found is not None:
            off_s.append(np.median(found.time_s - true_s[found.keep]))
            said_s.append(found.uncertainty_s)
    assert np.all(np.abs(off_s) < 4 * np.array(said_s))


@pytest.mark.parametrize(("unsure", "told"), [(5, True), (15, False)])
def test_an_end_that_its_polls_do_not_tell_is_not_lost(unsure, told):
    # The first polls come as the counter is renewed: they show an update, or the one before.
    apart_s = np.append(np.full(unsure, 0.1), np.full(400, 0.101))
    polls = 0.0301 + np.append(0.0, np.cumsum(apart_s))
    true_s = np.floor((polls - 0.03) / 0.1) * 0.1 + 0.03
    assert (update_times(polls, 50.0 * true_s, 0.1) is not None) == told
