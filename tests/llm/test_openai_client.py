import asyncio
import math
import socket
from types import SimpleNamespace

import aiohttp
import pytest
from streaming_server import StreamingServer, ask

from joulelab.errors import UserError
from joulelab.llm.openai_client import OpenAIClient, ServerError, _reason, base_url


def say(text="one two three", tokens=4):
    async def work(client):
        return client, await client.complete(text, tokens)

    return work


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/chat/completions", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("https://host/openai/v1", "https://host/openai"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://host/v10", "http://host/v10"),
    ],
)
def test_url_is_taken_with_and_without_the_path(given, found):
    assert base_url(given) == found


@pytest.mark.parametrize("given", ["ftp://host", "http://user:password@host/v1", "http://", "a b"])
def test_what_is_no_url_of_a_server_is_refused(given):
    with pytest.raises(UserError, match="URL of a server"):
        base_url(given)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_reply_has_the_times_of_its_chunks_and_the_tokens_of_the_server(api):
    server = StreamingServer(overhead=2, cached=3)
    client, reply = ask(server, say(), api=api)
    assert (client.model, client.api, client.notes) == ("tiny", api, [])
    assert not reply.error
    assert len(reply.chunk_ns) == 4
    assert reply.start_ns < reply.chunk_ns[0]
    assert reply.chunk_ns == sorted(reply.chunk_ns)
    assert reply.stop_ns >= reply.chunk_ns[-1]
    counts = reply.counts
    assert (counts.input_tokens, counts.output_tokens, counts.cached_tokens) == (5, 4, 3)
    assert server.bodies[-1]["max_tokens"] == server.bodies[-1]["min_tokens"] == 4
    assert server.bodies[-1]["ignore_eos"] is True


def test_completions_come_first_and_chat_where_they_are_missing():
    assert ask(StreamingServer(), say())[0].api == "completions"
    assert ask(StreamingServer(paths=("/v1/chat/completions",)), say())[0].api == "chat"


def test_server_that_stops_early_has_its_real_tokens():
    _, reply = ask(StreamingServer(stops_after=3), say(tokens=10))
    assert reply.output_tokens == 3


def test_chunks_are_counted_only_without_usage():
    _, reply = ask(StreamingServer(usage=False), say(tokens=5))
    assert reply.output_tokens == 5
    assert math.isnan(reply.counts.output_tokens)


@pytest.mark.parametrize("refused", [("ignore_eos",), ("ignore_eos", "stream_options")])
def test_fields_that_the_server_refuses_are_left_out_with_a_note(refused):
    client, reply = ask(StreamingServer(refused_fields=refused), say())
    assert not reply.error
    assert "ignore_eos" in client.notes[0]
    assert len(client.notes) == len(refused)


def test_one_model_is_chosen_and_several_are_listed():
    with pytest.raises(UserError, match=r"it reports large and small; choose one with --model"):
        ask(StreamingServer(models=("large", "small")), say())
    assert ask(StreamingServer(models=("large", "small")), say(), model="small")[0].model == "small"
    with pytest.raises(UserError, match=r"no model 'x': it has tiny"):
        ask(StreamingServer(), say(), model="x")


def test_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    assert not ask(StreamingServer(key="secret"), say(), api_key_variable="MY_KEY")[1].error
    with pytest.raises(ServerError, match="--api-key-env"):
        ask(StreamingServer(key="secret"), say())
    with pytest.raises(UserError, match="NOT_SET is not set"):
        OpenAIClient("localhost", api_key_variable="NOT_SET")


@pytest.mark.parametrize(
    ("server", "reason", "was_answered"),
    [
        (StreamingServer(status=503), "HTTP 503: out of memory", False),
        (StreamingServer(breaks_after=2), "before the end of the reply", True),
        (StreamingServer(error_in_stream="no memory"), "the server reported: no memory", True),
    ],
)
def test_failures_are_in_the_reply(server, reason, was_answered):
    faults = {name: getattr(server, name) for name in ("breaks_after", "error_in_stream")}
    server.breaks_after, server.error_in_stream = None, ""

    async def work(client):
        vars(server).update(faults)
        return await client.complete("one", 4)

    reply = ask(server, work)
    assert reason in reply.error
    assert reply.was_answered is was_answered
    assert reply.stop_ns > reply.start_ns


def test_server_that_says_nothing_times_out():
    server = StreamingServer()

    async def work(client):
        server.hold = asyncio.Event()
        reply = await client.complete("one", 4)
        server.hold.set()
        return reply

    reply = ask(server, work, timeout_s=0.05)
    assert reply.error == "no data for 0.05 s"
    assert reply.was_answered


def test_unknown_host_is_named_as_such():
    failure = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    error = aiohttp.ClientConnectorDNSError(SimpleNamespace(), failure)
    assert _reason(error) == "Name or service not known"


def test_server_that_is_not_there_is_one_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    async def run():
        async with OpenAIClient(url) as client:
            await client.connect()

    with pytest.raises(ServerError, match=f"no server answers at {url}: Connection refused; start"):
        asyncio.run(run())


def test_server_that_refuses_every_request_is_one_error():
    with pytest.raises(ServerError, match=r"does not answer requests for tiny: HTTP 404"):
        ask(StreamingServer(paths=()), say())
