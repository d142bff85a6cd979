"""The energy of output tokens in the scenarios of the ledger."""

import json

import numpy as np
import pytest

from joulelab.carbon.costs import J_PER_KWH
from joulelab.energy.energy import Energy
from joulelab.errors import UserError
from joulelab.ledger.model_energy import read_model, token_energy
from joulelab.llm.bench_result import BenchResult, LevelResult, Percentiles
from joulelab.llm.load import Level
from joulelab.llm.requests import RequestLog
from joulelab.llm.result import LlmResult, TokenCost
from joulelab.uncertain import COVERAGE_FACTOR, UNKNOWN_RATIO, Ratio


def served(j_per_token, relative=0.1):
    """The energy of a server's requests, without what the ledger does not read."""
    one = np.ones(1)
    return LlmResult(
        requests=RequestLog(("1",), 0 * one, one, 2 * one, 10 * one, 5 * one, 0 * one),
        energy=Energy(duration_s=2.0),
        cost=TokenCost(UNKNOWN_RATIO, UNKNOWN_RATIO),
        gross_j_per_output_token=Ratio(
            j_per_token, j_per_token * (1 - relative), j_per_token * (1 + relative)
        ),
        component_costs={},
        steady_state=None,
        per_request=None,
    )


def bench(directory, levels):
    """Write the result of a benchmark, at levels of load by their energy per token."""
    results = [
        LevelResult(level, served(1.0).requests, {}, *[Percentiles()] * 3, 0.0, one and served(one))
        for level, one in levels.items()
    ]
    found = BenchResult(
        url="http://127.0.0.1",
        model="model",
        api="chat",
        levels=results,
        total=served(9.0),
        costs={},
        knee=None,
    )
    directory.mkdir()
    (directory / "result.json").write_text(json.dumps(found.to_json()))
    return directory


def test_a_report_gives_the_gross_energy_of_a_token_with_its_interval(tmp_path):
    file = tmp_path / "report.json"
    file.write_text(json.dumps(served(0.165).to_json()))
    found = token_energy(str(file))
    assert found.value == 0.165
    assert found.own == pytest.approx(0.1 * 0.165 / COVERAGE_FACTOR)
    assert found.interval == pytest.approx((0.1485, 0.1815))


def test_a_benchmark_gives_the_energy_at_a_level_of_load(tmp_path):
    levels = {Level(concurrency=1): 0.4, Level(concurrency=8): 0.1, Level(rate_per_s=2.5): 0.2}
    path = bench(tmp_path / "bench", levels)
    assert token_energy(f"{path}:8").value == 0.1
    assert token_energy(f"{path}/result.json:concurrency 1").value == 0.4
    assert token_energy(f"{path}:2.5").value == 0.2
    with pytest.raises(UserError, match="3 levels of load: they are concurrency 1") as error:
        token_energy(str(path))
    assert error.value.hint == f"name one, for example '{path}/result.json:2.5 requests/s'"
    with pytest.raises(UserError, match="no '3'"):
        token_energy(f"{path}:3")


def test_the_only_level_needs_no_name(tmp_path):
    path = bench(tmp_path / "bench", {Level(concurrency=4): 9.0})
    assert token_energy(str(path)).value == token_energy(f"{path}:4").value == 9.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no result of joulelab llm"),
        ("{", "no result of joulelab llm"),
        ('{"gross_j_per_output_token": -1}', "no result of joulelab llm"),
        ("{}", "no energy per output token"),
        ('{"gross_j_per_output_token": null}', "no energy per output token"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        token_energy(str(file))


def test_a_run_gives_its_energy_over_its_tag(tmp_path, run_record):
    path = run_record(tmp_path / "serve", 2000.0, tags={"tokens": "10000"})
    assert token_energy(str(path)).value == 0.2


@pytest.mark.parametrize("tags", [{}, *({"tokens": one} for one in ("many", "0", "-1", "inf"))])
def test_a_run_without_a_number_of_tokens_is_refused(tmp_path, run_record, tags):
    with pytest.raises(UserError, match=r"number of tokens .* unknown"):
        token_energy(str(run_record(tmp_path / "other", 2000.0, tags=tags)))


def test_a_study_gives_an_output_token_with_its_part_of_the_prompt(tmp_path, synthetic):
    study = synthetic.Writer(tmp_path / "study", models=["LeNet"], repeats=2)

    def make_language_model(run):
        run["factors"] |= {"prompt_tokens": 512, "output_tokens": 128}
        for phase, measured, tokens in (("prefill", "train", 5120), ("decode", "infer", 640)):
            run["results"][phase] = run["results"][measured] | {"tokens": tokens}

    for block, stretch in enumerate((1.0, 1.1)):
        study.cell("LeNet", block, stretch=stretch, change=make_language_model)
    expected = []
    for block in range(2):
        file = tmp_path / "study" / "runs" / f"r{block}-lenet" / "run.json"
        results = json.loads(file.read_text())["results"]
        prefill_j, decode_j = (results[name]["energy"]["gross_j"] for name in ("prefill", "decode"))
        expected.append(prefill_j / 5120 * 512 / 128 + decode_j / 640)
    model = read_model(f"{tmp_path}/study:LeNet", "token")
    assert model.per_request.value == pytest.approx(sum(expected) / 2)
    low, high = model.per_request.interval
    assert low < min(expected) < max(expected) < high, "the scatter of the repeats"


def test_serving_has_used_as_much_as_training_after_some_tokens(tmp_path, printed):
    path = bench(tmp_path / "bench", {Level(concurrency=8): 0.1, Level(concurrency=1): 0.4})
    arguments = ("ledger", "inference", "--tokens-per-day", "1e6", "--training", "3.6e6",
        "--energy-per-token", f"{path}:8", "--price", "0.3", "--currency", "EUR")  # fmt: skip
    found = json.loads(printed(*arguments, "--json"))
    assert found["per_token_j"] == 0.1
    assert found["tokens_per_day"] == 1e6
    assert found["tokens_to_training"] == pytest.approx(3.6e7)
    assert found["tokens_low_to_training"] < 3.6e7 < found["tokens_high_to_training"]
    assert found["days_to_training"] == pytest.approx(36)
    assert found["tokens_per_kwh"] == pytest.approx(J_PER_KWH / 0.1)
    assert found["costs_of_million_tokens"]["price"] == pytest.approx(1e5 / J_PER_KWH * 0.3)
    text = printed(*arguments)
    assert "1,000,000 tokens per day, 0.100 J (95 % CI 0.090–0.110 J) each" in text
    assert "36.0 million (95 % CI 32.7–40.0 million) tokens per kWh" in text
    assert ", 36,000,000 tokens (95 % CI 32," in text


def test_break_even_of_two_models_in_tokens(tmp_path, printed):
    small = bench(tmp_path / "small", {Level(concurrency=8): 0.2})
    large = bench(tmp_path / "large", {Level(concurrency=8): 0.1})
    models = (f"small=1e6,{small}:8", f"large=3e6,{large}:8")
    found = json.loads(printed("ledger", "break-even", *models, "--per-token", "--json"))
    assert found["tokens"] == pytest.approx(2e7)
    assert [one["efficient"] for one in found["ranges"]] == ["small", None, "large"]
    assert found["ranges"][0]["from_tokens"] == 0
    assert found["models"][0]["per_token_j"] == 0.2
    text = printed("ledger", "break-even", *models, "--per-token")
    assert "break-even after 20,000,000 tokens (95 % CI" in text
    assert "request" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tokens-per-day", "10", "--energy-per-request", "1"],
        ["--requests-per-day", "10"],
        ["--tokens-per-day", "10", "--energy-per-token", "1", "--requests-per-day", "3"],
    ],
)
def test_requests_and_tokens_are_not_mixed(arguments, refused):
    error = refused("ledger", "inference", *arguments)
    assert "or --tokens-per-day and --energy-per-token" in error
