import numpy as np
import pytest

from joulelab.forecast.steady import LEAST_STEPS, SteadyWindow, startup_steps


def steps(seed, startup, count=400, scatter=0.02):
    draw = np.random.default_rng(seed)
    return [*startup, *(1e-2 * draw.normal(1, scatter, count))]


def steps_taken(window, durations_s):
    return next(n for n, duration_s in enumerate(durations_s, 1) if window.add(duration_s))


@pytest.mark.parametrize("seed", range(5))
def test_steps_that_compile_and_fill_caches_are_left_out(seed):
    falling = [2.0, 0.5, 0.1, *np.linspace(0.05, 0.011, 20)]
    assert 20 <= startup_steps(steps(seed, falling)) <= 60


@pytest.mark.parametrize("seed", range(5))
def test_of_steady_steps_few_are_left_out(seed):
    assert startup_steps(steps(seed, [])) <= 20


def test_a_window_ends_when_enough_steps_are_steady():
    window = SteadyWindow(window_s=1.0, most_s=60.0)
    taken = steps(0, [3.0, 1.0, 0.2])
    assert steps_taken(window, taken) < 140
    assert 3 <= window.startup <= 20
    assert sum(window.durations_s[window.startup :]) >= 1.0


def test_a_window_of_steps_that_never_become_steady_ends_with_the_later_half():
    window = SteadyWindow(window_s=25.0, most_s=30.0)
    falling = [0.98**n for n in range(200)]
    count = steps_taken(window, falling)
    assert sum(falling[: count - 1]) < 30.0 <= sum(falling[:count])
    assert window.startup == count // 2


def test_long_steps_need_no_longer_window_than_the_fewest_steps():
    window = SteadyWindow(window_s=1.0, most_s=600.0)
    assert steps_taken(window, [20.0, 20.1, 20.2] * 7) == LEAST_STEPS
