"""Load on a server: a closed loop at a concurrency, or an open loop at a rate.

In a *closed* loop, a number of clients each send the next request when the last one is answered,
so the server is full however fast it is. In an *open* loop, requests arrive at random times
(a Poisson process), whether or not the server has answered those before; this is how users behave,
and a server that is too slow gets an ever longer queue.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from joulelab.format import count
from joulelab.llm.openai_client import OpenAIClient, Reply
from joulelab.llm.prompts import Prompt

MOST_FAILURES = 10
"""A level ends early after this many failures in a row, or twice its concurrency."""
_LEAST_ARRIVALS = 20
"""With fewer arrivals, it cannot be seen whether the queue only grew by chance."""


@dataclass(frozen=True, slots=True)
class Level:
    """The load on a server: one of the two is given."""

    concurrency: int | None = None  # Requests in flight in a closed loop.
    rate_per_s: float | None = None  # Mean arrivals per second in an open loop.

    def __str__(self) -> str:
        if self.concurrency is not None:
            return f"concurrency {self.concurrency}"
        return f"{self.rate_per_s:g} requests/s"

    def to_json(self) -> dict[str, Any]:
        """Convert to a plain dictionary."""
        return {"concurrency": self.concurrency, "rate_per_s": self.rate_per_s}


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a level lasts: a number of requests, or a time in which they may start."""

    requests: int | None = None
    duration_s: float | None = None


@dataclass(slots=True)
class LevelLoad:
    """The requests of a level, growing while it runs."""

    level: Level  # The load on the server.
    extent: Extent  # How long the level lasts.
    started: int = 0  # Number of requests so far.
    # The finished ones, failed ones included, in the order in which they ended.
    replies: list[Reply] = field(default_factory=list)
    output_tokens: int = 0  # Tokens of the finished ones.
    failures_in_a_row: int = 0  # Number of failed ones since the last that did not fail.
    notes: list[str] = field(default_factory=list)  # What limits the level.

    @property
    def in_flight(self) -> int:
        """Number of requests that are not answered."""
        return self.started - len(self.replies)

    @property
    def has_failed(self) -> bool:
        """Whether enough requests failed in a row to expect the others to fail."""
        return self.failures_in_a_row >= max(MOST_FAILURES, 2 * (self.level.concurrency or 0))

    def add(self, reply: Reply) -> None:
        """Take the reply to a request."""
        self.replies.append(reply)
        self.output_tokens += reply.output_tokens
        self.failures_in_a_row = self.failures_in_a_row + 1 if reply.error else 0


class LoadGenerator:
    """Sends requests to a server.

    Args:
        client: The server.
        prompts: The prompts, without end.
        seed: Of the times of arrivals.
    """

    def __init__(self, client: OpenAIClient, prompts: Iterator[Prompt], seed: int = 0) -> None:
        self._client = client
        self._prompts = prompts
        self._chance = random.Random(seed)
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Send no more requests and end those in flight."""
        self._stopped.set()
        for task in self._tasks:
            task.cancel()

    @property
    def is_stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped.is_set()

    async def pause(self, duration_s: float) -> None:
        """Wait, at most until :meth:`stop`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), duration_s)

    async def run(self, load: LevelLoad) -> None:
        """Run a level until its last request is answered."""
        duration_s = load.extent.duration_s
        stop_s = math.inf if duration_s is None else time.monotonic() + duration_s
        async with asyncio.TaskGroup() as group:
            if load.level.rate_per_s is not None:
                self._start(group, self._arrive(group, load, load.level.rate_per_s, stop_s))
            for _ in range(load.level.concurrency or 0):
                self._start(group, self._send_in_turn(load, stop_s))
        if not (load.started or self.is_stopped):
            load.notes.append("no request arrived")
        if load.has_failed and not self.is_stopped:
            failures = count(load.failures_in_a_row, "failure")
            load.notes.append(f"the level ended early after {failures} in a row")

    def _may_start(self, load: LevelLoad, stop_s: float) -> bool:
        """Report whether another request may start now."""
        wanted = load.extent.requests
        return not (
            self.is_stopped
            or load.has_failed
            or (wanted is not None and load.started >= wanted)
            or time.monotonic() >= stop_s
        )

    def _start(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        task = group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send(self, load: LevelLoad) -> Coroutine[Any, Any, None]:
        """Count a request as started, and return what sends it."""
        load.started += 1
        return self._complete(load, next(self._prompts))

    async def _complete(self, load: LevelLoad, prompt: Prompt) -> None:
        reply = Reply()
        try:
            await self._client.complete(prompt.text, prompt.output_tokens, reply)
        finally:
            load.add(reply)

    async def _send_in_turn(self, load: LevelLoad, stop_s: float) -> None:
        """Be one of the clients of a closed loop."""
        while self._may_start(load, stop_s):
            await self._send(load)

    async def _arrive(
        self, group: asyncio.TaskGroup, load: LevelLoad, rate_per_s: float, stop_s: float
    ) -> None:
        """Start requests at the times of a Poisson process."""
        in_flight: list[int] = []
        at_s = time.monotonic()
        while True:
            at_s += self._chance.expovariate(rate_per_s)
            await self.pause(min(at_s, stop_s) - time.monotonic())
            if not self._may_start(load, stop_s):
                break
            in_flight.append(load.in_flight)
            self._start(group, self._send(load))
        if is_growing(in_flight):
            load.notes.append(
                "requests arrived faster than the server answered them: "
                f"{count(in_flight[-1], 'request was', 'requests were')} waiting or in work at the "
                "end, so times and energies depend on how long the level lasted"
            )


def is_growing(in_flight: Sequence[int]) -> bool:
    """Report whether a queue grew in each third of an open loop, to twice that of the first.

    Args:
        in_flight: Requests in flight at each arrival.
    """
    third = len(in_flight) // 3
    if len(in_flight) < _LEAST_ARRIVALS:
        return False
    first, second, last = (
        sum(in_flight[start : start + third]) / third for start in (0, third, 2 * third)
    )
    return first < second < last and last >= 2 * first + 1
