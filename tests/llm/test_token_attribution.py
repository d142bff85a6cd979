"""Joules per token of simulated servers whose costs are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.token_attribution import IDLE_S, IDLE_W, Case, compare, record, simulate
from energy_parts import idle_point

from joulelab.energy.baseline import Baseline
from joulelab.errors import UserError
from joulelab.llm.requests import RequestLog
from joulelab.llm.token_attribution import UNKNOWN_COST, attribute
from joulelab.recording.trace import Readings

SHORT = Case(concurrency=8, duration_s=30.0, prefill="serial")


def simulated(case, seed=0):
    rng = np.random.default_rng(seed)
    truth = simulate(case, rng)
    return truth, record(truth, case, rng)


@pytest.fixture(scope="module")
def short():
    """A truth, its trace and its estimate, which tests only read."""
    truth, trace = simulated(SHORT)
    return truth, trace, attribute(truth.requests, trace)


def between(trace, start_s, stop_s):
    (readings,) = trace.series
    kept = (readings.t_ns >= start_s * 1e9) & (readings.t_ns <= stop_s * 1e9)
    return replace(trace, series=(Readings(readings.t_ns[kept], readings.value[kept]),))


CASES = {
    "one": Case(concurrency=1, period_s=0.02),
    "eight": Case(concurrency=8, period_s=0.02),
    "64": Case(concurrency=64, duration_s=30.0, period_s=0.02),
    "chunked": Case(concurrency=16, prefill="chunked"),
    "bursts": Case(concurrency=16, prefill="serial", arrivals="bursts", shape="steps"),
    "slots": Case(concurrency=16, prefill="serial", slots=6),
    "aborted": Case(concurrency=16, prefill="serial", aborted=0.1),
    "cached": Case(concurrency=16, prefill="serial", cached=0.4),
    "independent": Case(concurrency=16, prefill="independent"),
    "saturating": Case(concurrency=16, shape="saturating"),
    "average": replace(SHORT, sensor="average"),
    "lag": replace(SHORT, sensor="lag"),
    "late": replace(SHORT, sensor="late"),
    "counter": replace(SHORT, sensor="counter"),
}


@pytest.mark.parametrize("name", CASES)
def test_costs_of_tokens_are_near_the_truth(name):
    truth, trace = simulated(CASES[name])
    errors = compare(truth, attribute(truth.requests, trace))
    assert abs(errors.output_error) < 0.02
    assert abs(errors.input_error) < 0.08
    assert abs(errors.sum_error) < 1e-9
    assert errors.request_error < 0.05


def test_prefill_and_decode_add_up_to_the_net_energy(short):
    truth, _, found = short
    cost, requests = found.cost, truth.requests
    prefill_j = cost.j_per_input_token.value * requests.input_tokens.sum()
    decode_j = cost.j_per_output_token.value * requests.output_tokens.sum()
    assert prefill_j + decode_j == pytest.approx(found.energy.net_j)
    assert found.per_request.prefill_j.sum() == pytest.approx(prefill_j)
    assert found.per_request.decode_j.sum() == pytest.approx(decode_j)


def test_gain_of_the_sensor_widens_all_intervals(short):
    truth, trace, exact = short
    (channel,) = trace.channels
    trace = replace(trace, channels=(replace(channel, gain_uncertainty=0.05),))
    found = attribute(truth.requests, trace)
    wide, narrow = found.cost.j_per_output_token, exact.cost.j_per_output_token
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high / wide.value - 1 > 0.09 > narrow.high / narrow.value - 1
    half_j = (found.per_request.high_j - found.per_request.low_j) / 2
    assert np.all(half_j > 0.09 * found.per_request.energy_j)


def test_steady_state_is_from_full_to_first_not_full(short):
    truth, _, found = short
    requests, steady = truth.requests, found.steady_state
    assert steady.concurrency == 8
    assert steady.start_s == IDLE_S
    # No request follows on those that end after this.
    last_sent_s = requests.start_s.max()
    assert last_sent_s < steady.stop_s == requests.stop_s[requests.stop_s > last_sent_s].min()
    assert steady.cost.j_per_output_token.value == pytest.approx(truth.j_per_output_token, rel=0.02)
    assert steady.cost.j_per_input_token.value == pytest.approx(truth.j_per_input_token, rel=0.08)
    made = steady.output_tokens_per_s * (steady.stop_s - steady.start_s)
    assert 0.7 * requests.output_tokens.sum() < made < requests.output_tokens.sum()


def test_brief_peaks_are_no_steady_state():
    truth, trace = simulated(replace(SHORT, arrivals="open", concurrency=4))
    found = attribute(truth.requests, trace)
    steady = found.steady_state
    assert steady is None or steady.stop_s - steady.start_s >= 0.5


def test_late_readings_are_noted_and_corrected():
    case = replace(SHORT, sensor="late", concurrency=1, noise=0.0)
    truth, trace = simulated(case)
    found = attribute(truth.requests, trace)
    (note,) = found.notes
    assert note.startswith("gpu:0: readings follow the requests 7")
    assert "later than power states" in note
    net_j = truth.prefill_j.sum() + truth.decode_j.sum()
    assert found.energy.net_j == pytest.approx(net_j, rel=0.005)


def test_readings_at_moments_widen_intervals():
    case = replace(SHORT, concurrency=1)
    widths = []
    for sensor in ("mean", "instant"):
        truth, trace = simulated(replace(case, sensor=sensor))
        found = attribute(truth.requests, trace)
        ratio = found.cost.j_per_output_token
        assert ratio.low < truth.j_per_output_token < ratio.high
        widths.append(ratio.high - ratio.low)
    assert "as if each were power at one moment" in found.notes[0]
    assert widths[1] > 1.5 * widths[0]


def test_net_energy_is_unknown_without_idle_power(short):
    truth, trace, whole = short
    start_s, stop_s = truth.requests.window_s
    trace = between(trace, start_s + 0.2, stop_s - 0.2)
    found = attribute(truth.requests, trace)
    assert found.per_request is None
    assert found.to_json()["net_j"] is None
    assert found.to_json()["j_per_output_token"] is None
    gross = found.gross_j_per_output_token
    assert gross.value == pytest.approx(whole.gross_j_per_output_token.value, rel=0.02)
    assert any(note.startswith("net of idle is unknown") for note in found.notes)

    idle = idle_point({"gpu:0": IDLE_W}, uncertainty_w=0.5, source="power")
    found = attribute(truth.requests, trace, Baseline((idle,)))
    assert found.cost.j_per_output_token.value == pytest.approx(truth.j_per_output_token, rel=0.02)
    # What idle power may have drifted by is in the interval.
    wide, narrow = found.cost.j_per_output_token, whole.cost.j_per_output_token
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_requests_that_power_covers_in_part_have_wide_intervals(short):
    truth, trace, _ = short
    start_s, stop_s = truth.requests.window_s
    found = attribute(truth.requests, between(trace, 0.0, (start_s + stop_s) / 2 + 4))
    cost = found.cost.j_per_output_token
    assert cost.low < truth.j_per_output_token < cost.high
    assert cost.high - cost.low > 0.5 * cost.value


def test_requests_outside_the_recording_are_an_error(short):
    truth, trace, _ = short
    with pytest.raises(UserError, match="no request is within the recording"):
        attribute(truth.requests.shifted(1e4), trace)


def test_answers_that_arrive_at_once_leave_their_division_uncertain(short):
    truth, trace, _ = short
    at_once = replace(truth.requests, first_token_s=np.full(len(truth.requests), np.nan))
    found = attribute(at_once, trace)
    for ratio, true in (
        (found.cost.j_per_input_token, truth.j_per_input_token),
        (found.cost.j_per_output_token, truth.j_per_output_token),
    ):
        assert ratio.low <= true <= ratio.high
    assert found.cost.j_per_input_token.low == 0
    assert found.per_request.energy_j.sum() == pytest.approx(found.energy.net_j)
    same = attribute(replace(at_once, first_token_s=at_once.stop_s), trace)
    assert same.cost == found.cost


def test_requests_without_output_are_all_prefill(short):
    truth, trace, _ = short
    number = len(truth.requests)
    requests = replace(
        truth.requests,
        first_token_s=np.full(number, np.nan),
        output_tokens=np.zeros(number),
    )
    found = attribute(requests, trace)
    assert math.isnan(found.cost.j_per_output_token.value)
    prefill_j = found.cost.j_per_input_token.value * requests.input_tokens.sum()
    assert prefill_j == pytest.approx(found.energy.net_j)


def test_cached_tokens_cost_nothing(short):
    truth, trace, whole = short
    requests = truth.requests
    cached = replace(requests, cached_tokens=np.floor(requests.input_tokens / 2))
    found = attribute(cached, trace)
    assert found.cost.j_per_input_token.value == pytest.approx(
        whole.cost.j_per_input_token.value, rel=0.02
    )
    assert found.steady_state.cost.j_per_input_token.value == pytest.approx(
        whole.steady_state.cost.j_per_input_token.value, rel=0.02
    )


def test_order_of_requests_does_not_matter(short):
    truth, trace, whole = short
    requests = truth.requests
    order = np.random.default_rng(1).permutation(len(requests))
    columns = ("start_s", "first_token_s", "stop_s", "input_tokens", "output_tokens")
    shuffled = replace(
        requests,
        request=tuple(requests.request[i] for i in order),
        **{name: getattr(requests, name)[order] for name in columns},
    )
    found = attribute(shuffled, trace)
    assert found.per_request.energy_j == pytest.approx(whole.per_request.energy_j[order], rel=1e-3)


def test_component_that_stays_idle_costs_nothing(short):
    truth, trace, alone = short
    (readings,), (channel,) = trace.series, trace.channels
    constant = readings._replace(value=np.full(readings.value.size, 60.0))
    both = replace(
        trace,
        channels=(channel, replace(channel, component="gpu:1")),
        series=(readings, constant),
    )
    found = attribute(truth.requests, both)
    assert found.cost.j_per_output_token.value == pytest.approx(alone.cost.j_per_output_token.value)
    assert found.energy.gross_j > alone.energy.gross_j
    assert found.per_request.energy_j.sum() == pytest.approx(found.energy.net_j)
    assert "no energy net of idle is significant: gpu:1" in found.notes


@pytest.mark.parametrize("busy_w", [60.0, 40.0], ids=["as idle", "below idle"])
def test_without_significant_net_energy_only_gross_values_are_known(short, busy_w):
    truth, trace, _ = short
    (readings,) = trace.series
    start_s, stop_s = truth.requests.window_s
    t_s = readings.t_ns * 1e-9
    power_w = np.where((t_s > start_s) & (t_s < stop_s), busy_w, 60.0)
    found = attribute(truth.requests, replace(trace, series=(readings._replace(value=power_w),)))
    assert found.cost is UNKNOWN_COST
    assert found.per_request is None
    assert found.component_costs == {"gpu:0": UNKNOWN_COST}
    assert found.gross_j_per_output_token.low > 0
    assert any("not significantly above zero" in note for note in found.notes)


def test_tokens_that_prefill_makes_have_no_energy_of_decode(short):
    _, trace, _ = short
    start_s = 10.0 + 4 * np.arange(6)
    tokens = 400.0 + 300 * np.arange(6)
    requests = RequestLog(
        request=tuple("abcdef"),
        start_s=start_s,
        first_token_s=start_s + 2,
        stop_s=start_s + 2,
        input_tokens=tokens,
        output_tokens=np.ones(6),
        cached_tokens=np.zeros(6),
    )
    t_s = np.arange(0.0, 45.0, 0.1)
    is_busy = ((t_s[:, None] > start_s) & (t_s[:, None] <= start_s + 2)).any(axis=1)
    readings = Readings((t_s * 1e9).astype(np.int64), np.where(is_busy, 270.0, 70.0))
    found = attribute(requests, replace(trace, series=(readings,)))
    per_input = 6 * 2 * 200 / tokens.sum()
    assert found.cost.j_per_input_token.value == pytest.approx(per_input, rel=0.02)
    assert math.isnan(found.cost.j_per_output_token.value)
    assert found.gross_j_per_output_token.low > 0


def test_components_add_up(short):
    truth, trace, alone = short
    (readings,), (channel,) = trace.series, trace.channels
    half = readings._replace(value=readings.value / 2)
    both = replace(
        trace,
        channels=(channel, replace(channel, component="cpu:0")),
        series=(readings, half),
    )
    found = attribute(truth.requests, both)
    costs = found.component_costs
    assert costs.keys() == {"gpu:0", "cpu:0"}
    for name in ("j_per_input_token", "j_per_output_token"):
        total, one = (getattr(cost, name).value for cost in (found.cost, alone.cost))
        assert total == pytest.approx(1.5 * one, rel=0.01)
        parts = [getattr(cost, name).value for cost in costs.values()]
        assert sum(parts) == pytest.approx(total)


def test_uncertain_idle_power_moves_costs_as_intervals_say(short):
    truth, trace, _ = short

    def cost(power_w, uncertainty_w):
        points = (
            idle_point(
                {"gpu:0": power_w}, uncertainty_w=uncertainty_w, source="power", time_s=time_s
            )
            for time_s in (0.0, 50.0)
        )
        return attribute(truth.requests, trace, Baseline(tuple(points))).cost

    low, high, unsure = cost(IDLE_W, 0.0), cost(IDLE_W + 1, 0.0), cost(IDLE_W, 10.0)
    start_s, stop_s = truth.requests.window_s
    share = (start_s + stop_s) / 2 / 50.0
    off_w = 10.0 * math.hypot(share, 1 - share)
    for name in ("j_per_input_token", "j_per_output_token"):
        exact, moved, wide = (getattr(one, name) for one in (low, high, unsure))
        expected = math.hypot(exact.high - exact.value, 1.96 * off_w * (moved.value - exact.value))
        assert wide.high - wide.value == pytest.approx(expected, rel=0.05)


def test_requests_without_a_token_get_energy_nevertheless(short):
    truth, trace, _ = short
    none = np.zeros(len(truth.requests))
    empty = replace(truth.requests, input_tokens=none, output_tokens=none, cached_tokens=none)
    found = attribute(empty, trace)
    assert found.per_request.energy_j.sum() == pytest.approx(found.energy.net_j)
