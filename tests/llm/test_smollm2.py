"""What a real server counts: SmolLM2-135M-Instruct, served by llama.cpp."""

import asyncio

import aiohttp

from joulelab.llm.server_counters import read_counters, read_final_counters, reply_counts

PROMPT = list(range(1000, 1040))


def test_replies_and_counters_of_a_real_server_agree(smollm2):
    async def ask():
        async with aiohttp.ClientSession() as session:
            before = await read_counters(session, smollm2 + "/v1")
            replies = []
            for _ in range(2):
                body = {"prompt": PROMPT, "max_tokens": 6, "ignore_eos": True}
                async with session.post(smollm2 + "/v1/completions", json=body) as response:
                    replies.append(reply_counts(await response.json()))
            return before, replies, await read_final_counters(session, smollm2)

    before, replies, after = asyncio.run(ask())
    assert before.source == after.source == "llama.cpp"
    assert [one.input_tokens for one in replies] == [40, 40]
    assert [one.output_tokens for one in replies] == [6, 6]
    assert replies[1].cached_tokens == 39
    assert after.prompt_tokens - before.prompt_tokens == 80
    assert after.cached_tokens - before.cached_tokens == sum(one.cached_tokens for one in replies)
    assert after.generation_tokens - before.generation_tokens == 12
    assert after.running == 0


def test_a_server_without_metrics_has_no_counters(smollm2):
    async def ask(url):
        async with aiohttp.ClientSession() as session:
            return await read_counters(session, url)

    assert asyncio.run(ask(smollm2 + "/elsewhere")) is None
    assert asyncio.run(ask("http://127.0.0.1:9")) is None
