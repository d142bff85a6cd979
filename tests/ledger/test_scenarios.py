"""Break-even of two models."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from joulelab.cli.ledger_scenarios import _caveats, _joules
from joulelab.ledger import model_energy
from joulelab.ledger.scenarios import Inference, ModelEnergy, break_even
from joulelab.stats.estimates import estimate
from joulelab.uncertain import COVERAGE_FACTOR, UncertainValue

values = st.floats(1.0, 1e6)
parts = st.floats(0.0, 0.2)


@st.composite
def uncertain(draw):
    value = draw(values)
    shared = {cause: value * draw(parts) for cause in ("gain a", "gain b") if draw(st.booleans())}
    return UncertainValue(value, shared, value * draw(parts))


model = st.builds(ModelEnergy, st.just("m"), uncertain(), uncertain())


@given(model, model, st.floats(0.0, 1e7))
def test_break_even_agrees_with_the_sums_at_any_number_of_requests(a, b, requests):
    found = break_even(a, b)
    inside = any(low <= requests <= high for low, high in found.undecided)
    edge = any(
        abs(requests - end) <= 1e-6 * (1 + requests)
        for stretch in found.undecided for end in stretch
    )  # fmt: skip
    assume(not edge)
    excess = found.a.after(requests) - found.b.after(requests)
    near = abs(abs(excess.value) - COVERAGE_FACTOR * excess.uncertainty) < 1e-9 * a.training.value
    assume(not near)
    assert (found.efficient(requests) is None) == inside


@given(model, model)
def test_break_even_is_the_same_from_either_side(a, b):
    one, other = break_even(a, b), break_even(b, a)
    assert one.requests == pytest.approx(other.requests, nan_ok=True)
    assert one.interval == pytest.approx(other.interval, nan_ok=True, rel=1e-6)


def test_break_even_of_exact_energies():
    small = ModelEnergy("small", UncertainValue(1e6), UncertainValue(2.0))
    large = ModelEnergy("large", UncertainValue(3e6), UncertainValue(1.0))
    found = break_even(small, large)
    assert found.requests == pytest.approx(2e6)
    assert found.interval == pytest.approx((2e6, 2e6), rel=1e-6)
    assert [one and one.name for *_, one in found.ranges()] == ["small", "large"]


@pytest.mark.parametrize("simulated", [(True, False), (False, True), (False, False)])
def test_inference_is_simulated_if_its_training_or_its_requests_are(simulated):
    training, per_request = (UncertainValue(1.0, simulated=one) for one in simulated)
    assert Inference(1.0, per_request, training).to_json()["simulated"] == any(simulated)


def test_requests_of_a_run_whose_meter_did_not_move_used_nothing(
    tmp_path, run_record, request_spans
):
    run = run_record(tmp_path / "a", 0.0, spans=(request_spans(4, 0.0, 0.0, 0.0),))
    assert model_energy.request_energy(str(run)).value == 0.0


def test_a_model_that_is_cheaper_in_both_never_loses():
    good = ModelEnergy("good", UncertainValue(1e6, {}, 1e4), UncertainValue(1.0, {}, 0.01))
    bad = ModelEnergy("bad", UncertainValue(3e6, {}, 1e4), UncertainValue(2.0, {}, 0.01))
    found = break_even(good, bad)
    assert math.isnan(found.requests)
    assert found.ranges() == [(0.0, math.inf, good)]


def test_requests_that_do_not_differ_significantly_give_no_upper_bound():
    a = ModelEnergy("a", UncertainValue(1e6, {}, 1e4), UncertainValue(1.05, {}, 0.1))
    b = ModelEnergy("b", UncertainValue(3e6, {}, 1e4), UncertainValue(1.0, {}, 0.1))
    found = break_even(a, b)
    begin, end, efficient = found.ranges()[-1]
    assert efficient is None
    assert math.isinf(end)
    assert begin > 0
    assert found.to_json()["requests_high"] is None


def test_equal_models_never_differ_significantly():
    same = ModelEnergy("same", UncertainValue(1e6, {}, 1e4), UncertainValue(1.0, {}, 0.1))
    assert break_even(same, same).ranges() == [(0.0, math.inf, None)]
    exact = ModelEnergy("exact", UncertainValue(1.0), UncertainValue(1.0))
    assert break_even(exact, exact).ranges() == [(0.0, math.inf, None)]


def mean_of_repeats(monkeypatch, *values):
    monkeypatch.setattr(model_energy, "_repeats", lambda text: values)
    return model_energy._over_repeats("grid:LeNet", lambda j: (UncertainValue(j, least=0.0), 1.0))


def test_energy_per_sample_is_the_ratio_of_sums_as_in_a_report(monkeypatch):
    repeats = [(30.0, 1000.0), (100.0, 15_000.0)]
    monkeypatch.setattr(model_energy, "_repeats", lambda text: repeats)
    found = model_energy._over_repeats("grid:LeNet", lambda run: (UncertainValue(run[0]), run[1]))
    energies, samples = zip(*repeats, strict=True)
    reported = estimate(energies, per=samples, correlated=[0.0, 0.0])
    assert found.value == pytest.approx(130 / 16_000)
    assert found.value == pytest.approx(reported.value)
    assert found.interval == pytest.approx((reported.low, reported.high))


def test_repeats_that_differ_widely_determine_nothing(monkeypatch):
    found = mean_of_repeats(monkeypatch, 0.0062, 0.0618)
    assert found.interval[0] == 0.0
    assert _joules(found) == "0.034 J (95 % CI 0.000–0.387 J)"
    known = mean_of_repeats(monkeypatch, 0.030, 0.031)
    text = "a: not determined within a factor of 10; more repeats are needed"
    assert _caveats({"a": found, "b": known}) == [text]
    assert _caveats({"b": known}) == []


def test_an_uncertain_request_never_gives_energy_back(monkeypatch):
    per_request = mean_of_repeats(monkeypatch, 0.030, 0.038)
    served = Inference(20_000, per_request, UncertainValue(1000.0, own=50.0, least=0.0))
    low_j, high_j = served.over("day").interval
    assert low_j == 0.0
    assert served.over("day").value == pytest.approx(680.0)
    assert high_j > 680.0
    assert served.days_to_training.low >= 0.0
