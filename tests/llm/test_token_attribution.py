"""Joules per token of simulated servers whose costs are known."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.token_attribution import Case, compare, record, simulate

from joulelab.errors import UserError
from joulelab.llm.token_attribution import attribute


def estimate(case, seed=0):
    rng = np.random.default_rng(seed)
    truth = simulate(case, rng)
    return truth, attribute(truth.requests, record(truth, case, rng))


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_costs_of_tokens_are_near_the_truth(concurrency):
    truth, found = estimate(Case(concurrency=concurrency, period_s=0.02))
    errors = compare(truth, found)
    assert abs(errors.output_error) < 0.02
    assert abs(errors.input_error) < 0.08
    assert abs(errors.sum_error) < 1e-9
    assert errors.request_error < 0.05


def test_prefill_and_decode_add_up_to_the_net_energy():
    truth, found = estimate(Case())
    cost, requests = found.cost, truth.requests
    prefill_j = cost.j_per_input_token.value * requests.input_tokens.sum()
    decode_j = cost.j_per_output_token.value * requests.output_tokens.sum()
    assert prefill_j + decode_j == pytest.approx(found.energy.net_j)
    assert found.per_request.prefill_j.sum() == pytest.approx(prefill_j)
    assert found.per_request.decode_j.sum() == pytest.approx(decode_j)


def test_requests_outside_the_recording_are_an_error():
    case = Case(duration_s=5.0)
    rng = np.random.default_rng(0)
    truth = simulate(case, rng)
    with pytest.raises(UserError, match="no request is within the recording"):
        attribute(truth.requests.shifted(1e4), record(truth, case, rng))


def test_component_that_stays_idle_costs_nothing():
    case = Case()
    rng = np.random.default_rng(0)
    truth = simulate(case, rng)
    trace = record(truth, case, rng)
    alone = attribute(truth.requests, trace)
    (readings,), (channel,) = trace.series, trace.channels
    constant = readings._replace(value=np.full(readings.value.size, 60.0))
    both = replace(
        trace,
        channels=(channel, replace(channel, component="gpu:1")),
        series=(readings, constant),
    )
    found = attribute(truth.requests, both)
    assert found.cost.j_per_output_token.value == pytest.approx(alone.cost.j_per_output_token.value)
    assert found.per_request.energy_j.sum() == pytest.approx(found.energy.net_j)
    assert found.energy.gross_j > alone.energy.gross_j
    assert "no energy net of idle is significant: gpu:1" in found.notes
