"""``joulelab llm bench``: load a server level by level while the energy is measured.

One recording covers everything: idle power with the loaded server before and after, a warm-up, and
a span for each level.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import math
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from joulelab.carbon.site import Site
from joulelab.energy.baseline import Baseline
from joulelab.errors import UserError
from joulelab.format import count, finite_or_none, number, percent
from joulelab.llm.bench_result import BenchResult, LevelResult
from joulelab.llm.level_analysis import MeasuredLevel, level_result, request_log
from joulelab.llm.load import Extent, Level, LevelLoad, LoadGenerator
from joulelab.llm.openai_client import OpenAIClient, ServerError
from joulelab.llm.power_fit import MARGIN_S
from joulelab.llm.prompts import (
    Lengths,
    Prompt,
    Tokenizer,
    made_of,
    read_prompts,
    synthetic_prompts,
)
from joulelab.llm.request_files import write_requests
from joulelab.llm.requests import RequestLog
from joulelab.llm.server_counters import read_counters, read_final_counters
from joulelab.llm.sweep import find_knee
from joulelab.llm.text import costs_of
from joulelab.llm.token_attribution import attribute
from joulelab.meter import IDLE_SPAN, Meter
from joulelab.storage import file_errors, write_whole, writing

Watch = Callable[[str, LevelLoad | None], None]

PAUSE_S = 2 * MARGIN_S
"""Time before and after each level, so that its readings cover neither another nor the warm-up."""
POLL_S = 0.5
LEAST_IDLE_S = 1.0
_CALIBRATION_WORDS = 8, 200
_WARM_UP_REQUESTS = 4  # At most, unless the highest concurrency is higher.
REQUESTS_FILE, RESULT_FILE = "requests.jsonl", "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Options of a benchmark."""

    levels: tuple[Level, ...]  # Loads on the server, one after the other.
    extent: Extent  # How long each level lasts.
    inputs: Lengths  # Tokens of the prompts.
    outputs: Lengths  # Tokens to generate.
    shared_prefix: int = 0  # Tokens with which all prompts begin.
    prompts: Path | None = None  # A file of prompts instead.
    seed: int = 0  # Of lengths and arrivals.
    idle_s: float = 5.0  # Time for which idle power is measured before and after.
    is_measured: bool = True  # Whether this machine's energy is measured.


def run_bench(
    client: OpenAIClient,
    options: BenchOptions,
    directory: Path,
    *,
    watch: Watch = lambda *_: None,
) -> BenchResult:
    """Load a server level by level and measure the energy of this machine.

    The directory gets the recording, the requests and the result. Ctrl-C ends it early and keeps
    what was measured.

    Args:
        client: The server.
        options: Load, prompts and idle time.
        directory: A new or empty directory.
        watch: Called at each stage, and twice a second during a level.

    Raises:
        UserError: The directory is not empty, the server has not the chosen model, or no request of
            an open loop arrived.
        ServerError: The server cannot be reached, or every request failed.
        KeyboardInterrupt: It was ended before the first level.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty", hint="choose another directory with --out")
    prompts = None
    if options.prompts is not None:
        prompts = read_prompts(options.prompts, options.outputs, seed=options.seed)
    bench = asyncio.run(_run(client, options, prompts, directory, watch))
    watch("computing energies", None)
    result = bench.result()
    log = RequestLog.joined([one.requests for one in result.levels]).shifted(bench.unix_zero_s)
    names = [str(one.level) for one in result.levels for _ in one.requests.request]
    write_requests(directory / REQUESTS_FILE, log, level=names)
    with writing(directory / RESULT_FILE):
        text = json.dumps(finite_or_none(result.to_json()), indent=1, allow_nan=False)
        write_whole(directory / RESULT_FILE, text.encode())
    return result


async def _run(
    client: OpenAIClient,
    options: BenchOptions,
    prompts: list[Prompt] | None,
    directory: Path,
    watch: Watch,
) -> _Bench:
    """Connect to the server, then run all levels."""
    async with client:
        watch(f"connecting to {client.url}", None)
        await client.connect()
        notes = [*client.notes]
        if prompts is None:
            tokenizer = await _calibrate(client, notes)
            stream = synthetic_prompts(
                options.inputs,
                options.outputs,
                tokenizer,
                shared_prefix=options.shared_prefix,
                seed=options.seed,
            )
        else:
            tokenizer, stream = Tokenizer(), itertools.cycle(prompts)
            notes.append(f"{count(len(prompts), 'prompt')} from a file, used in turn")
        # Options that the server refuses are an error before anything is recorded.
        first = await client.complete(*next(stream))
        if first.error:
            raise ServerError("a first request failed", why=first.error)
        generator = LoadGenerator(client, stream, options.seed)
        with file_errors(f"cannot use {directory}"):
            directory.mkdir(parents=True, exist_ok=True)
        # Idle power that was saved is that of a machine without the server.
        idle = Baseline(())
        measured = options.is_measured
        meter = Meter(directory=directory, baseline=idle) if measured else None
        bench = _Bench(options, client, generator, meter, tokenizer, watch, notes)
        with meter or nullcontext():
            await bench.run()
    return bench


async def _calibrate(client: OpenAIClient, notes: list[str]) -> Tokenizer:
    """Find how many tokens the server counts for a word, from two short requests."""
    chance = random.Random()
    points = []
    for words in _CALIBRATION_WORDS:
        text = made_of(words, chance)
        tokens = (await client.complete(text, 1)).counts.input_tokens
        if math.isnan(tokens):
            counted = await client.count_tokens(text)
            tokens = math.nan if counted is None else float(counted)
        points.append((words, tokens))
    if any(math.isnan(tokens) for _, tokens in points) or not points[1][1] > points[0][1]:
        notes.append("the server reports no tokens of prompts: one was assumed for each word")
        return Tokenizer()
    return Tokenizer.through(*points)


@dataclass(slots=True)
class _Bench:
    """A running benchmark and its measurements."""

    options: BenchOptions
    client: OpenAIClient
    generator: LoadGenerator
    meter: Meter | None
    tokenizer: Tokenizer
    watch: Watch
    notes: list[str]
    measured: list[MeasuredLevel] = field(default_factory=list)
    zero_unix_s: float = field(default_factory=lambda: time.time() - time.monotonic())

    async def run(self) -> None:
        """Run all levels, with idle power before and after; Ctrl-C goes on to the end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.generator.stop)
        try:
            await self._run_levels()
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    async def _run_levels(self) -> None:
        await self._idle()
        await self._warm_up()
        await self.generator.pause(PAUSE_S)
        for level in self.options.levels:
            if self.generator.is_stopped:
                break
            await self._run_level(level)
            await self.generator.pause(PAUSE_S)
        if not any(one.load.replies for one in self.measured):
            if self.generator.is_stopped:
                raise KeyboardInterrupt
            raise UserError(
                "no request arrived", hint="give a higher --rate, or a longer --duration"
            )
        await self._idle()

    def _span(self, name: str, **attributes: Any) -> AbstractContextManager[Any]:
        return nullcontext() if self.meter is None else self.meter.span(name, **attributes)

    async def _idle(self) -> None:
        """Measure idle power, unless that was cut short."""
        if self.meter is None:
            return
        self.watch("measuring idle power", None)
        with self.meter.span(IDLE_SPAN) as span:
            await self.generator.pause(self.options.idle_s)
        if span.duration_s >= min(LEAST_IDLE_S, self.options.idle_s):
            self.meter.idle_from(span)

    async def _warm_up(self) -> None:
        """Send a request for each of those that will be in flight."""
        most = max((one.concurrency or 0 for one in self.options.levels), default=0)
        requests = most or _WARM_UP_REQUESTS
        load = LevelLoad(Level(concurrency=requests), Extent(requests=requests))
        with self._span("warm-up"):
            await self._watched("warm-up", load)
        _refuse_failure([load])

    async def _run_level(self, level: Level) -> None:
        session, url = self.client.session, self.client.url
        before = await read_counters(session, url)
        load = LevelLoad(level, self.options.extent)
        with self._span("level", **level.to_json()):
            start_ns, cpu_s = time.monotonic_ns(), time.process_time()
            await self._watched(str(level), load)
            stop_ns, cpu_s = time.monotonic_ns(), time.process_time() - cpu_s
        after = await read_final_counters(session, url)
        self.measured.append(MeasuredLevel(load, start_ns, stop_ns, cpu_s, before, after))

    async def _watched(self, stage: str, load: LevelLoad) -> None:
        """Run a level, and report its progress now and then."""
        running = asyncio.get_running_loop().create_task(self.generator.run(load))
        while not running.done():
            self.watch(stage, load)
            await asyncio.wait([running], timeout=POLL_S)
        running.result()

    @property
    def unix_zero_s(self) -> float:
        """Unix time at time 0 of the readings' clock, as the recording states it."""
        header = {} if self.meter is None else self.meter.trace.header
        if "start_unix_s" not in header:
            return self.zero_unix_s
        return float(header["start_unix_s"]) - float(header["start_ns"]) * 1e-9

    def result(self) -> BenchResult:
        """Compute everything from what was measured."""
        _refuse_failure([one.load for one in self.measured])
        zero_s, levels, first = self.unix_zero_s, [], 1
        trace = None if self.meter is None else self.meter.trace
        baseline = None if self.meter is None else self.meter.baseline
        for one in self.measured:
            log = request_log(one.load.replies, first, self.tokenizer)
            # Rounded as in the file of requests, so that `joulelab llm report` finds the same.
            log = log.shifted(zero_s).shifted(-zero_s)
            levels.append(level_result(one, log, trace, baseline))
            first += len(log)
        costs = {
            one.level.concurrency: one.cost for one in levels if one.level.concurrency is not None
        }
        total = None
        notes = tuple(self._all_notes(levels))
        if trace is not None and any(one.energy for one in levels):
            total = attribute(RequestLog.joined([one.requests for one in levels]), trace, baseline)
            total = replace(total, notes=(*notes, *total.notes))
        return BenchResult(
            url=self.client.url,
            model=self.client.model,
            api=self.client.api,
            levels=levels,
            total=total,
            costs=costs_of(total, Site.configured(), zero_s) if total else {},
            knee=find_knee(costs),
            is_interrupted=self.generator.is_stopped,
            notes=notes,
        )

    def _all_notes(self, levels: Sequence[LevelResult]) -> Iterator[str]:
        yield from self.notes
        host = urlsplit(self.client.url).hostname or ""
        if self.meter is None:
            yield "no energy was measured"
        elif not is_this_machine(host):
            yield (
                f"the server is on another host, {host}, and the energy is that of this one: "
                "record there with `joulelab run`, use --no-energy here, and join both with "
                "`joulelab llm report`"
            )
        if self.meter is not None and len(levels) > 1:
            yield "energies of all requests together contain the pauses between the levels"
        known = [one for one in levels if len(one.requests)]
        busiest = max(known, key=lambda one: one.client_cpu_s / one.duration_s)
        share = busiest.client_cpu_s / busiest.duration_s
        tokens = max(float(busiest.requests.output_tokens.sum()), 1.0)
        yield (
            f"the load generator itself used at most {percent(share, 2)} of one core "
            f"({busiest.level}, {number(busiest.client_cpu_s / tokens * 1e3)} ms of CPU time per "
            "output token), which is part of the energy of this machine"
        )
        everywhere = set.intersection(*(set(one.notes) for one in levels))
        yield from sorted(everywhere)
        for one in levels:
            yield from (f"{one.level}: {note}" for note in one.notes if note not in everywhere)


def is_this_machine(host: str) -> bool:
    """Report whether a host name is one of this machine's."""
    try:
        found = {str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {one.address for every in psutil.net_if_addrs().values() for one in every}
    return any(one in own or ipaddress.ip_address(one).is_loopback for one in found)


def _refuse_failure(loads: Sequence[LevelLoad]) -> None:
    """Raise an error if every request failed, with the most frequent reason."""
    replies = [one for load in loads for one in load.replies]
    reasons = Counter(one.error for one in replies)
    if replies and "" not in reasons and set(reasons) != {"interrupted"}:
        ((reason, _),) = reasons.most_common(1)
        raise ServerError(
            f"every request failed ({count(len(replies), 'request')})",
            why=reason,
            hint="see the log of the server",
        )
