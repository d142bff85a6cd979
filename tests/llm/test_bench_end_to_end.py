"""`joulelab llm bench` on a server of known joules per token, and on a real one."""

import json
import shlex
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from simulated_server import PowerFile

from joulelab.llm.bench import BenchOptions, run_bench
from joulelab.llm.load import Extent, Level
from joulelab.llm.openai_client import OpenAIClient
from joulelab.llm.prompts import Lengths

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "energy-per-token.md"
# Steps are so long that a busy machine, which delays clients by milliseconds, hardly matters.
# Only tokens have a cost: whose energy that of a step would be is a matter of definition.
SLOW = {"step_s": 0.03, "prompt_token_s": 3e-4, "output_token_s": 1e-4}
COSTS = {"prompt_j": 0.06, "output_j": 0.8, "step_j": 0.0}


def bench(url, directory, concurrency, requests, inputs, outputs, **options):
    """Run one level and return its result."""
    (level,) = run_bench(
        OpenAIClient(url),
        BenchOptions(
            levels=(Level(concurrency=concurrency),),
            extent=Extent(requests=requests),
            inputs=Lengths.parse(inputs),
            outputs=Lengths.parse(outputs),
            idle_s=1.0,
        ),
        directory,
        **options,
    ).levels
    return level


def truth_of(url, number):
    """Return what a simulated server knows of its last requests, and the sum of a field."""
    with urllib.request.urlopen(url + "/truth") as answer:
        requests = json.load(answer)["requests"][-number:]
    return requests, lambda name: sum(one[name] for one in requests)


def check_energy(level, power_file):
    """Compare energies with the power that the server drew, however long a busy machine took."""
    power = PowerFile(power_file)
    power.update()
    start_s, stop_s = level.requests.window_s
    energy = level.energy.energy
    assert energy.gross_j == pytest.approx(power.energy_j(start_s, stop_s), rel=0.01)
    assert energy.idle_j == pytest.approx(80 * (stop_s - start_s), rel=0.025)


def test_known_joules_per_token_are_recovered(simulated_server, tmp_path):
    url = simulated_server(**SLOW, **COSTS)
    level = bench(url, tmp_path / "out", 4, 32, "200-600", "20-40")
    requests, total = truth_of(url, 32)
    log, found = level.requests, level.energy
    assert log.input_tokens.sum() == total("input_tokens")
    assert log.output_tokens.sum() == total("output_tokens")
    assert level.notes == ()

    check_energy(level, tmp_path / "power")
    assert found.per_request.energy_j.sum() == pytest.approx(found.energy.net_j, rel=0.01)
    for truth, ratio in (
        (total("prefill_j") / total("input_tokens"), found.cost.j_per_input_token),
        (total("decode_j") / total("output_tokens"), found.cost.j_per_output_token),
    ):
        assert ratio.value == pytest.approx(truth, rel=0.08)
        assert ratio.low <= truth <= ratio.high
    truths = np.array([one["prefill_j"] + one["decode_j"] for one in requests])
    assert np.median(abs(found.per_request.energy_j / truths - 1)) <= 0.06


def test_requests_that_fail_are_counted_with_what_they_used(simulated_server, tmp_path):
    url = simulated_server(fail_every=8, break_every=9, **SLOW, **COSTS)
    level = bench(url, tmp_path / "out", 2, 10, "100", "20")
    check_energy(level, tmp_path / "power")
    # A refused request used nothing, and is not among the requests; one that broke off is.
    refused = sum(number for reason, number in level.failures.items() if "HTTP 500" in reason)
    assert refused >= 1
    assert len(level.requests) == 10 - refused
    assert min(level.requests.output_tokens) == 10


def test_the_command_of_the_documentation_on_a_real_server(smollm2, tmp_path, printed, monkeypatch):
    monkeypatch.setenv("JOULELAB_SENSORS", "simulated")
    (line,) = (line for line in PAGE.read_text().splitlines() if "bench http://127" in line)
    _, *arguments = shlex.split(line.replace("http://127.0.0.1:8080", smollm2))
    # The last of two equal options counts.
    less = shlex.split("--concurrency 2 --requests 3 --input-tokens 32 --output-tokens 8 --idle 1")
    out = tmp_path / "tokens"
    output = printed(*arguments, *less, "--out", out, "--json")
    result = json.loads(output)
    assert result["output_tokens"] == 3 * 8
    assert 3 * 28 <= result["input_tokens"] <= 3 * 36
    # Totals that differ from the server's counters by more than 1 % would be a note.
    assert [level["notes"] for level in result["levels"]] == [[]]
    assert result["gross_j_per_output_token"] > 0
    assert (out / "report.html").exists()
