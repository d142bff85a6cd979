"""What a server did, from when its requests started, got their first token and stopped."""

import numpy as np
import pytest
from benchmarks.token_attribution import Case, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from joulelab.llm.power_fit import plausible_activities
from joulelab.llm.requests import RequestLog
from joulelab.llm.server_activity import (
    SHORTEST_S,
    activities,
    drivers_of,
    steady_window,
)


def microseconds(most_s):
    """Times as logs state them."""
    return st.integers(0, round(most_s * 1e6)).map(lambda value: value / 1e6)


TIMES = st.tuples(
    microseconds(50),  # Start.
    microseconds(3),  # Until the first token.
    microseconds(10),  # From then on.
    st.integers(0, 2000),
    st.integers(0, 300),
    st.sampled_from(["streamed", "at once", "aborted"]),
)


def log(rows):
    start_s, wait_s, decode_s, prompt, output, kind = map(np.array, zip(*rows, strict=True))
    first_s = np.where(kind == "streamed", start_s + wait_s, np.nan)
    return RequestLog(
        tuple(map(str, range(len(rows)))),
        start_s,
        first_s,
        start_s + wait_s + decode_s,
        prompt.astype(float),
        np.where(kind == "aborted", 0.0, np.maximum(output, 1)),
        np.zeros(len(rows)),
    )


@given(st.lists(TIMES, min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_requests_add_up_to_what_the_server_did(rows):
    requests = log(rows)
    for activity in activities(requests):
        for driver in drivers_of(activity):
            whole = float(activity.rate(driver) @ activity.length_s)
            parts = sum(activity.of_requests(driver, is_prefill=one).sum() for one in (True, False))
            assert parts == pytest.approx(whole, rel=1e-6, abs=1e-6)
            assert np.all(activity.rate(driver) >= -1e-9)
        tokens = {one.name: activity.rate(one) @ activity.length_s for one in drivers_of(activity)}
        assert tokens["output"] == pytest.approx(requests.output_tokens.sum(), rel=1e-6, abs=1e-3)
        assert tokens["input"] <= requests.input_tokens.sum() * (1 + 1e-6) + 1e-6


@given(st.lists(TIMES, min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_prompts_are_processed_before_their_first_token(rows):
    requests = log(rows)
    for activity in activities(requests):
        assert np.all(activity.prefill.start_s < activity.prefill.stop_s)
        assert np.all(activity.decode.start_s < activity.decode.stop_s)
        assert activity.prefill.start_s.min() >= requests.start_s.min() - 2 * SHORTEST_S
        assert activity.prefill.stop_s.max() <= requests.stop_s.max() + 2 * SHORTEST_S


@pytest.mark.parametrize(
    ("prefill", "stalled_pace"), [("serial", 0.0), ("batched", 0.0), ("alone", 1.0)]
)
def test_paces_are_inferred_from_times(prefill, stalled_pace):
    case = Case(concurrency=32, prefill=prefill, arrivals="open", duration_s=40.0)
    truth = simulate(case, np.random.default_rng(0))
    best = min(plausible_activities(truth.requests), key=lambda one: one.server.timing).server
    assert best.stalled_pace == pytest.approx(stalled_pace, abs=0.06)
    first_s, next_s = case.step_s
    assert best.slow_down == pytest.approx(next_s / first_s, rel=0.2)


def test_prompts_that_wait_are_processed_one_after_another():
    truth = simulate(Case(concurrency=16, prefill="serial"), np.random.default_rng(0))
    best = min(plausible_activities(truth.requests), key=lambda one: one.server.timing).server
    processed_s = truth.requests.input_tokens.sum() / Case().prefill_tokens_per_s
    busy_s = float((best.prefilling > 0) @ best.length_s)
    assert busy_s == pytest.approx(processed_s, rel=0.02)


def rows_of(*times):
    return log([(start, 0.0, stop - start, 10, 5, "streamed") for start, stop in times])


def test_server_is_full_until_it_first_is_not():
    requests = rows_of((0, 4), (1, 5), (4.01, 8), (5.02, 9), (20, 21), (20, 21))
    assert steady_window(requests, 0.1) == (1.0, 8.0, 2)
    assert steady_window(requests, 0.001) == (1.0, 4.0, 2)


def test_one_request_at_a_time_is_full_all_the_time():
    assert steady_window(rows_of((0, 4), (4.05, 8)), 0.1) == (0.0, 8.0, 1)
