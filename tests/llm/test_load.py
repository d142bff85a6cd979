import asyncio
import itertools

import numpy as np
import pytest
from streaming_server import StreamingServer, ask

from joulelab.llm.load import Extent, Level, LevelLoad, LoadGenerator, is_growing
from joulelab.llm.prompts import Prompt


def run_level(server, level, extent, change=lambda generator: None):
    load = LevelLoad(level, extent)

    async def work(client):
        server.most_in_flight = 0
        generator = LoadGenerator(client, itertools.repeat(Prompt("one two", 3)))
        change(generator)
        await generator.run(load)

    ask(server, work)
    return load


def call_when_in_flight(server, requests, function):
    async def wait():
        while server.in_flight < requests:
            await asyncio.sleep(0.001)
        function()

    server.waiting = asyncio.get_running_loop().create_task(wait())


@pytest.mark.parametrize("concurrency", [1, 5])
def test_closed_loop_keeps_that_many_requests_in_flight(concurrency):
    server = StreamingServer(token_s=0.001)
    load = run_level(server, Level(concurrency=concurrency), Extent(requests=20))
    assert server.most_in_flight == concurrency
    assert load.started == len(load.replies) == 20
    assert load.output_tokens == 60
    assert load.in_flight == 0
    assert not load.notes


def test_time_limits_when_requests_start_and_all_are_answered(monkeypatch):
    now_s, started_s = [100.0], []
    monkeypatch.setattr("joulelab.llm.load.time.monotonic", lambda: now_s[0])

    class Client:
        async def complete(self, *_):
            started_s.append(now_s[0])
            now_s[0] += 0.125

    async def run():
        load = LevelLoad(Level(concurrency=2), Extent(duration_s=0.5))
        await LoadGenerator(Client(), itertools.repeat(Prompt("", 1))).run(load)
        return load

    load = asyncio.run(run())
    assert started_s == [100.0, 100.125, 100.25, 100.375]
    assert load.started == len(load.replies) == 4
    assert not any(one.error for one in load.replies)


def test_open_loop_does_not_wait_for_replies():
    server = StreamingServer(hold=asyncio.Event())
    server.hold.set()

    def change(_):
        server.hold.clear()
        call_when_in_flight(server, 30, server.hold.set)

    load = run_level(server, Level(rate_per_s=1000.0), Extent(requests=30), change)
    assert server.most_in_flight == 30
    assert len(load.replies) == 30
    assert "faster than the server answered" in load.notes[0]


def test_arrivals_are_a_seeded_poisson_process(monkeypatch):
    """At rate r, gaps are exponential: mean and standard deviation are 1 / r."""
    now_s = [100.0]
    monkeypatch.setattr("joulelab.llm.load.time.monotonic", lambda: now_s[0])

    class Client:
        async def complete(self, *_):
            pass

    def gaps_s(seed):
        async def run():
            generator = LoadGenerator(Client(), itertools.repeat(Prompt("", 1)), seed)
            at_s = []

            async def pause(duration_s):
                now_s[0] += duration_s
                at_s.append(now_s[0])

            generator.pause = pause
            await generator.run(LevelLoad(Level(rate_per_s=50.0), Extent(requests=4000)))
            return np.diff(at_s)

        return asyncio.run(run())

    found = gaps_s(1)
    assert found.size == 4000
    assert found.mean() == pytest.approx(0.02, rel=0.05)
    assert found.std() == pytest.approx(0.02, rel=0.05)
    assert np.allclose(gaps_s(1), found)
    assert not np.allclose(gaps_s(2), found)


def test_level_whose_requests_all_fail_ends_early():
    server = StreamingServer(status=500)
    load = run_level(server, Level(concurrency=4), Extent(duration_s=60.0))
    assert 10 <= len(load.replies) < 20
    assert all("HTTP 500" in one.error for one in load.replies)
    assert "ended early after" in load.notes[0]


def test_stop_ends_the_requests_in_flight_and_keeps_what_came():
    server = StreamingServer()

    def change(generator):
        server.token_s = 0.005
        call_when_in_flight(server, 3, generator.stop)

    load = run_level(server, Level(concurrency=3), Extent(requests=10**6), change)
    assert len(load.replies) >= 3
    assert [one.error for one in load.replies][-3:] == ["interrupted"] * 3
    assert load.in_flight == 0


def test_programming_error_in_a_request_ends_the_level():
    class Client:
        async def complete(self, *_):
            raise ZeroDivisionError

    async def run():
        generator = LoadGenerator(Client(), itertools.repeat(Prompt("", 1)))
        await generator.run(LevelLoad(Level(concurrency=2), Extent(requests=4)))

    with pytest.raises(ExceptionGroup):
        asyncio.run(run())


def test_queue_grows_only_if_it_does_so_all_the_time():
    assert is_growing(range(60))
    assert not is_growing(range(10))
    assert not is_growing([3, 5] * 30)
    assert not is_growing([1] * 20 + [9] * 20 + [2] * 20)


def test_level_names_itself():
    assert str(Level(concurrency=8)) == "concurrency 8"
    assert str(Level(rate_per_s=2.5)) == "2.5 requests/s"
    assert Level(rate_per_s=2.5).to_json() == {"concurrency": None, "rate_per_s": 2.5}
