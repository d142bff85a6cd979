"""The comparison of predicted with published joules per token, on one of its tables."""

from types import SimpleNamespace

import pytest

from benchmarks import predict_tokens
from joulelab.predict.hardware_profile import load_profile
from joulelab.predict.token_steps import BLOCKS


@pytest.fixture(scope="module")
def eager():
    return predict_tokens.read_eager()


def test_rows_keep_the_published_energy_per_token(eager):
    """Llama 3.2 1B, batch size 1: five prompts, 84.1 to 84.5 tokens/s at 97.4 to 98.3 W."""
    one = next(one for one in eager.measurements if one.case.model == "lm:llama-3.2-1b")
    assert one.case.batch_size == 1
    assert one.energy_j / one.case.tokens == pytest.approx(97.8 / 84.2, rel=0.01)


def test_a_step_of_serving_has_the_published_energy_per_token():
    rows = predict_tokens.read_served("NVIDIA H100 80GB HBM3")
    (one,) = (
        one
        for one in rows.measurements
        if (one.case.model, one.case.batch_size) == ("lm:llama-3.1-8b", 128)
    )
    assert one.energy_j / one.case.tokens == pytest.approx(63.1227 / 483.135)
    assert one.case.tokens / one.duration_s == pytest.approx(2152.516)


def test_all_architectures_but_one_have_a_formula():
    rows = predict_tokens.read_table(predict_tokens.SERVED_TABLE)
    configs = {row["model"]: predict_tokens.find_config(row["model"]) for row in rows}
    assert [name for name, config in configs.items() if config is None] == ["phi-3-small"]
    assert {config.kind for config in configs.values() if config} <= set(BLOCKS)


def test_the_shipped_profile_follows_from_its_table(eager):
    shipped = load_profile(predict_tokens.EAGER_PROFILE)
    made = predict_tokens.fit(eager, predict_tokens.EAGER_DEVICE, shipped.name)
    assert made.coefficients == pytest.approx(shipped.coefficients, rel=0.02)
    assert made.energy_discrepancy == pytest.approx(shipped.energy_discrepancy, abs=0.005)
    assert made.seen.token_kinds == shipped.seen.token_kinds


def test_the_summary_counts_what_intervals_contain(capsys, eager):
    measured = eager.measurements[:4]
    found = [
        SimpleNamespace(
            energy_per_step_j=one.energy_j * factor,
            energy_low_j=one.energy_j * factor * 0.8,
            energy_high_j=one.energy_j * factor * 1.25,
            seconds_per_step=one.duration_s,
            seconds_low=one.duration_s * 0.9,
            seconds_high=one.duration_s * 1.1,
        )
        for one, factor in zip(measured, (1.0, 1.1, 1.1, 1.5), strict=True)
    ]
    rows = predict_tokens.Rows(measured, eager.steps[:4], eager.idle_power_w)
    predict_tokens.print_summary({"invented": (rows, found)})
    energy, time = capsys.readouterr().out.splitlines()[1:]
    assert energy.split()[-5:] == ["10%", "38%", "+10%", "75%", "25%"]
    assert time.split()[-5:] == ["0%", "0%", "+0%", "100%", "10%"]
