from itertools import pairwise

import numpy as np
import pytest

from joulelab.forecast.steady import LEAST_STEPS, SteadyWindow, startup_steps


def steps(seed, startup, count=400, scatter=0.02):
    draw = np.random.default_rng(seed)
    return [*startup, *(1e-2 * draw.normal(1, scatter, count))]


def steps_taken(window, durations_s):
    """Return after how many steps, which follow each other, the window is complete."""
    ends_ns = np.cumsum([0, *(round(1e9 * one) for one in durations_s)]).tolist()
    return next(n for n, step in enumerate(pairwise(ends_ns), 1) if window.add(*step))


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
    assert sum(window.durations_s) >= 1.0


def test_a_window_of_steps_that_never_become_steady_ends_with_the_later_half():
    window = SteadyWindow(window_s=25.0, most_s=30.0)
    falling = [0.98**n for n in range(200)]
    count = steps_taken(window, falling)
    assert sum(falling[: count - 1]) < 30.0 <= sum(falling[:count])
    assert 0 < window.startup <= count // 2


def test_long_steps_need_no_longer_window_than_the_fewest_steps():
    window = SteadyWindow(window_s=1.0, most_s=600.0)
    assert steps_taken(window, [20.0, 20.1, 20.2] * 7) == LEAST_STEPS


def test_what_happens_between_epochs_is_left_out():
    window, now_ns, second = SteadyWindow(window_s=12.0, most_s=100.0), 0, 10**9
    for step in range(20):
        if step % 5 == 0:
            now_ns += 7 * second  # a validation
        waited_ns = now_ns + second // 2
        now_ns = waited_ns + second
        if window.add(waited_ns, now_ns, within=step // 5, work=4):
            break
    assert window.startup <= 1
    assert set(window.durations_s) <= {1.0, 1.5}  # The first of an epoch has no wait.
    lengths_s = [(one.stop_ns - one.start_ns) * 1e-9 for one in window.windows]
    assert sum(lengths_s) == pytest.approx(sum(window.durations_s))
    assert len(window.windows) == 2
