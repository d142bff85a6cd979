"""Requests whose speeds have nothing to do with each other, as on servers that limit each user."""

import heapq

import numpy as np
import pytest
from energy_parts import make_channel

from joulelab.llm.requests import RequestLog
from joulelab.llm.token_attribution import attribute
from joulelab.recording.trace import Readings, Trace

J_PER_INPUT_TOKEN, J_PER_OUTPUT_TOKEN, IDLE_W = 0.05, 0.4, 70.0
CHANNEL = make_channel(source="simulated", update_period_s=0.02, window_s=0.02)


def served(rng, number=240, concurrency=8):
    """Return requests in a closed loop, each prefilled and decoded evenly at a speed of its own."""
    prompt, output = rng.integers(64, 1501, number), rng.integers(16, 257, number)
    start_s, first_s, stop_s = np.zeros((3, number))
    free_s = list(8 + rng.uniform(0, 0.5, concurrency))
    heapq.heapify(free_s)
    for i in range(number):
        start_s[i] = heapq.heappop(free_s)
        first_s[i] = start_s[i] + 0.02 + prompt[i] / rng.uniform(3000, 6000)
        stop_s[i] = first_s[i] + output[i] * rng.uniform(0.012, 0.03)
        heapq.heappush(free_s, stop_s[i] + rng.uniform(0, 0.01))
    names = tuple(map(str, range(number)))
    columns = (start_s, first_s, stop_s, prompt * 1.0, output * 1.0, np.zeros(number))
    return RequestLog(names, *columns)


def recorded(requests, rng):
    """Return the readings of a sensor, each the mean since the one before."""
    t_s = np.arange(0, requests.window_s[1] + 8, 0.02)
    energy_j = IDLE_W * t_s
    for begin_s, end_s, joules in (
        (requests.start_s, requests.first_token_s, J_PER_INPUT_TOKEN * requests.input_tokens),
        (requests.first_token_s, requests.stop_s, J_PER_OUTPUT_TOKEN * requests.output_tokens),
    ):
        for phase in zip(begin_s, end_s, joules, strict=True):
            energy_j += np.interp(t_s, phase[:2], (0.0, phase[2]))
    power_w = np.diff(energy_j) / 0.02 + rng.normal(0, 3, t_s.size - 1)
    return Trace((CHANNEL,), (Readings((t_s[1:] * 1e9).astype(np.int64), power_w),))


@pytest.mark.parametrize("seed", [8, 12])
def test_speeds_are_not_assumed_to_depend_on_each_other(seed):
    rng = np.random.default_rng(seed)
    requests = served(rng)
    found = attribute(requests, recorded(requests, rng)).cost
    assert found.j_per_output_token.value == pytest.approx(J_PER_OUTPUT_TOKEN, rel=0.01)
    assert found.j_per_input_token.value == pytest.approx(J_PER_INPUT_TOKEN, rel=0.01)
