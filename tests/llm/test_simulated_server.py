"""The simulation does what it says, so that measurements of it can be judged."""

import asyncio
import json
import time

import aiohttp
import pytest
from simulated_server import PowerFile

from joulelab.llm.openai_client import OpenAIClient
from joulelab.llm.server_counters import read_counters, reply_counts


async def complete(session, url, **body):
    """Return the events of a streamed completion."""
    body = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 8, **body}
    async with session.post(url + "/v1/completions", json=body) as response:
        response.raise_for_status()
        events = [line[6:] async for line in response.content if line.startswith(b"data: {")]
    return [json.loads(event) for event in events]


def ask(url, requests, then="/truth"):
    """Send requests at the same time; return their events or errors, and what a path states."""

    async def run():
        async with aiohttp.ClientSession() as session:
            tasks = [complete(session, url, **one) for one in requests]
            replies = await asyncio.gather(*tasks, return_exceptions=True)
            async with session.get(url + then) as response:
                truth = await response.json() if then == "/truth" else await response.text()
            return replies, truth, await read_counters(session, url)

    return asyncio.run(run())


def test_its_power_contains_exactly_the_stated_energies(simulated_server, tmp_path):
    before_s = time.monotonic()
    url = simulated_server(prompt_j=0.02, output_j=0.5, step_j=0.25, step_tokens=100)
    replies, truth, counters = ask(url, [{"prompt": [1] * 300}, {"prompt": [2] * 60}])
    power = PowerFile(tmp_path / "power")
    power.update()
    stop_s = time.monotonic() + 1
    net_j = power.energy_j(before_s, stop_s) - 80 * (stop_s - before_s)
    assert net_j == pytest.approx(truth["prefill_j"] + truth["decode_j"], rel=1e-9)
    requests = truth["requests"]
    assert sum(one["prefill_j"] for one in requests) == pytest.approx(truth["prefill_j"])
    assert sum(one["decode_j"] for one in requests) == pytest.approx(truth["decode_j"])
    # The first token comes with the last step of the prompt.
    steps_j = net_j - 360 * 0.02 - 2 * 7 * 0.5
    assert steps_j / 0.25 == pytest.approx(round(steps_j / 0.25), abs=1e-6)
    assert all(len(events) == 8 + 1 for events in replies)
    assert (counters.prompt_tokens, counters.generation_tokens) == (360, 16)


def test_it_batches_and_caches_prompts(simulated_server, tmp_path):
    url = simulated_server(cache_block=16, step_s=0.05)
    prompt = list(range(100))
    ask(url, [{"prompt": prompt}])
    bytes_before = (tmp_path / "power").stat().st_size
    replies, truth, counters = ask(url, [{"prompt": prompt}] * 8)
    steps = ((tmp_path / "power").stat().st_size - bytes_before) / 32
    assert 8 <= steps < 30  # One after another, the eight take 64.
    counts = [reply_counts(events[-1]) for events in replies]
    assert {(one.input_tokens, one.cached_tokens, one.output_tokens) for one in counts} == {
        (100, 96, 8)
    }
    assert counters.cached_tokens == 8 * 96
    assert truth["requests"][-1]["prefill_j"] == pytest.approx(4 * 0.02)


def test_it_fails_breaks_off_and_ends_early(simulated_server):
    url = simulated_server(fail_every=4, break_every=3, end_early_every=2, tokens_per_chunk=2)
    answers = [ask(url, [{"prompt": [1] * 20}]) for _ in range(4)]
    whole, early, broken, failed = (replies[0] for replies, _, _ in answers)
    truth = answers[-1][1]
    assert len(whole) == 4 + 1
    assert [one["choices"][0]["finish_reason"] for one in early[:-1]] == [None, "stop"]
    assert isinstance(broken, aiohttp.ClientPayloadError)
    assert isinstance(failed, aiohttp.ClientResponseError)
    assert failed.status == 500
    assert [one["output_tokens"] for one in truth["requests"]][:2] == [8, 4]
    assert 4 <= truth["requests"][2]["output_tokens"] < 8


def test_it_starts_slowly_without_usage_and_metrics(simulated_server):
    url = simulated_server(start_s=0.3, has_usage=False, has_metrics=False)
    (failed,), _, counters = ask(url, [{"prompt": "a b c"}], then="/health")
    assert failed.status == 503
    deadline_s = time.monotonic() + 30
    while isinstance(failed, Exception) and time.monotonic() < deadline_s:
        (failed,), _, counters = ask(url, [{"prompt": "a b c"}], then="/health")
    assert [reply_counts(event).output_tokens >= 0 for event in failed] == [False] * 8
    assert counters is None


def test_the_client_waits_until_a_server_has_loaded_its_model(simulated_server):
    url = simulated_server(start_s=1.0)

    async def connect():
        async with OpenAIClient(url) as client:
            await client.connect()
            return client.model

    assert asyncio.run(connect()) == "simulated"
