"""``joulelab llm bench``: load a server level by level while the energy is measured.

One recording covers everything: idle power with the loaded server before and after, a warm-up, and
a span for each level.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from numpy.typing import NDArray

from joulelab.carbon.site import Site
from joulelab.energy.baseline import Baseline
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.uncertainty import gross_energy
from joulelab.errors import UserError
from joulelab.format import count, finite_or_none, number, percent
from joulelab.llm.bench_result import BenchResult, LevelResult, Percentiles
from joulelab.llm.load import Extent, Level, LevelLoad, LoadGenerator
from joulelab.llm.openai_client import Api, OpenAIClient, Reply, ServerError
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
from joulelab.llm.result import LlmResult
from joulelab.llm.server_counters import disagreements, read_counters, read_final_counters
from joulelab.llm.sweep import BLOCKS, cost_of_blocks, find_knee
from joulelab.llm.text import costs_of
from joulelab.llm.token_attribution import attribute
from joulelab.meter import IDLE_SPAN, Meter
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.storage import file_errors, write_whole, writing
from joulelab.uncertain import UncertainValue

if TYPE_CHECKING:
    from joulelab.sensors.simulated import SimulatedMachine

Floats = NDArray[np.float64]
Watch = Callable[[str, LevelLoad | None], None]

PAUSE_S = 2.0
"""Time between levels, so that no reading of power covers two: sensors average up to 1 s."""
POLL_S = 0.5
LEAST_IDLE_S = 1.0
MOST_CACHED = 0.05
"""A larger part of the input tokens from the server's cache is stated."""
_CALIBRATION_WORDS = 8, 200
_WARM_UP_REQUESTS = 4  # At most, unless the highest concurrency is higher.
REQUESTS_FILE, RESULT_FILE = "requests.jsonl", "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to do to a server.

    Attributes:
        url: Its address, with or without ``/v1``.
        levels: What load it gets, one after the other.
        extent: How long each level lasts.
        inputs: Tokens of the prompts.
        outputs: Tokens to generate.
        shared_prefix: Tokens with which all prompts begin.
        prompts: A file of prompts instead.
        seed: Of lengths and arrivals.
        idle_s: Time for which idle power is measured before and after.
        is_measured: Whether this machine's energy is measured.
        model: Name of the model; see :class:`~joulelab.llm.openai_client.OpenAIClient` for this
            and what follows.
    """

    url: str
    levels: tuple[Level, ...]
    extent: Extent
    inputs: Lengths
    outputs: Lengths
    shared_prefix: int = 0
    prompts: Path | None = None
    seed: int = 0
    idle_s: float = 5.0
    is_measured: bool = True
    model: str | None = None
    api: Api | None = None
    api_key_variable: str | None = None
    timeout_s: float = 300.0


def run_bench(
    options: BenchOptions,
    directory: Path,
    *,
    sensors: Sequence[str] | SimulatedMachine | None = None,
    watch: Watch = lambda *_: None,
) -> BenchResult:
    """Load a server level by level and measure the energy of this machine.

    The directory gets the recording, the requests and the result. Ctrl-C ends it early and keeps
    what was measured.

    Args:
        options: What to do.
        directory: A new or empty directory.
        sensors: What to read. Default: everything.
        watch: Called at each stage, and twice a second during a level.

    Raises:
        UserError: The directory is not empty, or the server has not the chosen model.
        ServerError: The server cannot be reached, or every request failed.
        KeyboardInterrupt: It was ended before the first level.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty", hint="choose another directory with --out")
    prompts = None
    if options.prompts is not None:
        prompts = read_prompts(options.prompts, options.outputs, seed=options.seed)
    bench = asyncio.run(_run(options, prompts, directory, sensors, watch))
    watch("computing energies", None)
    result = bench.result()
    log = joined([one.requests for one in result.levels]).shifted(bench.unix_zero_s)
    names = [str(one.level) for one in result.levels for _ in one.requests.request]
    write_requests(directory / REQUESTS_FILE, log, level=names)
    with writing(directory / RESULT_FILE):
        text = json.dumps(finite_or_none(result.to_json()), indent=1, allow_nan=False)
        write_whole(directory / RESULT_FILE, text.encode())
    return result


async def _run(
    options: BenchOptions,
    prompts: list[Prompt] | None,
    directory: Path,
    sensors: Sequence[str] | SimulatedMachine | None,
    watch: Watch,
) -> _Bench:
    """Connect to the server, then run all levels."""
    async with OpenAIClient(
        options.url,
        model=options.model,
        api=options.api,
        api_key_variable=options.api_key_variable,
        timeout_s=options.timeout_s,
    ) as client:
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
        generator = LoadGenerator(client, stream, options.seed)
        with file_errors(f"cannot use {directory}"):
            directory.mkdir(parents=True, exist_ok=True)
        with _stopped_by_signal(generator):
            # Idle power that was saved is that of a machine without the server.
            meter = (
                Meter(sensors=sensors, directory=directory, baseline=Baseline(()))
                if options.is_measured
                else None
            )
            bench = _Bench(options, client, generator, meter, tokenizer, watch, notes)
            with meter or nullcontext():
                await bench.run()
    return bench


@contextlib.contextmanager
def _stopped_by_signal(generator: LoadGenerator) -> Iterator[None]:
    """End the load at Ctrl-C, and go on with what was measured."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, generator.stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


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
class _Measured:
    """A level that ran."""

    load: LevelLoad
    start_ns: int
    stop_ns: int
    cpu_s: float
    server_notes: Callable[[RequestLog], tuple[str, ...]]


@dataclass(slots=True)
class _Bench:
    """A benchmark that runs, and what it measured."""

    options: BenchOptions
    client: OpenAIClient
    generator: LoadGenerator
    meter: Meter | None
    tokenizer: Tokenizer
    watch: Watch
    notes: list[str]
    measured: list[_Measured] = field(default_factory=list)
    zero_unix_s: float = field(default_factory=lambda: time.time() - time.monotonic())

    async def run(self) -> None:
        """Run all levels, with idle power before and after."""
        await self._idle()
        await self._warm_up()
        for level in self.options.levels:
            if self.generator.is_stopped:
                break
            await self._run_level(level)
            await self.generator.pause(PAUSE_S)
        if not any(one.load.replies for one in self.measured):
            raise KeyboardInterrupt
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
        self.measured.append(
            _Measured(load, start_ns, stop_ns, cpu_s, lambda log: disagreements(log, before, after))
        )

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
        numbers = itertools.count(1)
        levels = [self._level_result(one, numbers) for one in self.measured]
        costs = {
            one.level.concurrency: one.cost for one in levels if one.level.concurrency is not None
        }
        total = None
        answered = [one.requests for one in levels if len(one.requests)]
        notes = tuple(self._all_notes(levels))
        if self.meter is not None and any(one.energy for one in levels):
            total = attribute(joined(answered), self.meter.trace, self.meter.baseline)
            total = replace(total, notes=(*notes, *total.notes))
        return BenchResult(
            url=self.client.url,
            model=self.client.model,
            api=self.client.api,
            levels=levels,
            total=total,
            costs=costs_of(total, Site.configured(), self.unix_zero_s) if total else {},
            knee=find_knee(costs),
            is_interrupted=self.generator.is_stopped,
            notes=notes,
        )

    def _level_result(self, measured: _Measured, numbers: Iterator[int]) -> LevelResult:
        load = measured.load
        answered = sorted(
            (one for one in load.replies if one.was_answered), key=lambda one: one.start_ns
        )
        log = request_log(answered, [str(next(numbers)) for _ in answered], self.tokenizer)
        # Rounded as in the file of requests, so that `joulelab llm report` finds the same.
        log = log.shifted(self.unix_zero_s).shifted(-self.unix_zero_s)
        good = [one for one in answered if not one.error]
        gaps_ns = [np.diff(one.chunk_ns) for one in good if len(one.chunk_ns) > 1]
        result = LevelResult(
            level=load.level,
            requests=log,
            failures=Counter(one.error for one in load.replies if one.error),
            first_token=Percentiles.of(
                [(one.chunk_ns[0] - one.start_ns) * 1e-9 for one in good if one.chunk_ns]
            ),
            between_tokens=Percentiles.of(np.concatenate(gaps_ns) * 1e-9 if gaps_ns else []),
            latency=Percentiles.of([(one.stop_ns - one.start_ns) * 1e-9 for one in good]),
            client_cpu_s=measured.cpu_s,
            notes=(
                *load.notes,
                *_reply_notes(load.replies),
                *(note.removesuffix(".") for note in measured.server_notes(log)),
            ),
        )
        if self.meter is None or not len(log):
            return result
        trace = _between(self.meter.trace, measured.start_ns, measured.stop_ns)
        try:
            energy = attribute(log, trace, self.meter.baseline)
        except UserError as error:
            return replace(result, notes=(*result.notes, str(error)))
        return replace(result, energy=energy, cost=_cost(energy, trace))

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
        busiest = max(levels, key=lambda one: one.client_cpu_s / one.duration_s)
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


def request_log(replies: Sequence[Reply], names: Sequence[str], tokenizer: Tokenizer) -> RequestLog:
    """Return replies in order of their start as a log, on CLOCK_MONOTONIC.

    Where the server reports no tokens, those of the prompt are estimated, and the chunks counted.
    """
    inputs = [one.counts.input_tokens for one in replies]
    estimated = [
        tokens if math.isfinite(tokens) else round(tokenizer.tokens_of(one.prompt))
        for one, tokens in zip(replies, inputs, strict=True)
    ]
    first_ns = [one.chunk_ns[0] if one.chunk_ns else math.nan for one in replies]
    return RequestLog(
        request=tuple(names),
        start_s=np.array([one.start_ns for one in replies]) * 1e-9,
        first_token_s=np.array(first_ns) * 1e-9,
        stop_s=np.array([one.stop_ns for one in replies]) * 1e-9,
        input_tokens=np.array(estimated, dtype=np.float64),
        output_tokens=np.array([one.output_tokens for one in replies], dtype=np.float64),
        cached_tokens=np.nan_to_num([one.counts.cached_tokens for one in replies], nan=0.0),
    )


def joined(logs: Sequence[RequestLog]) -> RequestLog:
    """Return the requests of several logs that follow each other as one."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in logs])
        for name in (
            "start_s", "first_token_s", "stop_s", "input_tokens", "output_tokens", "cached_tokens",
        )
    }  # fmt: skip
    return RequestLog(request=tuple(name for one in logs for name in one.request), **arrays)


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


def _reply_notes(replies: Sequence[Reply]) -> Iterator[str]:
    """Say what the replies lack."""
    good = [one for one in replies if not one.error]
    uncounted = sum(math.isnan(one.counts.output_tokens) for one in good)
    if uncounted:
        yield (
            f"the server reported no tokens for {count(uncounted, 'request')}: chunks were counted"
        )
    cached = sum(one.counts.cached_tokens for one in good if one.counts.cached_tokens > 0)
    inputs = sum(one.counts.input_tokens for one in good if one.counts.input_tokens > 0)
    if cached > MOST_CACHED * inputs:
        yield f"{percent(cached / inputs, 2)} of the input tokens came from the server's cache"
    short = sum(one.output_tokens < one.wanted_tokens for one in good)
    if short:
        yield f"the server ended {count(short, 'reply', 'replies')} before the requested length"
    chunks = sum(len(one.chunk_ns) for one in good)
    tokens = sum(one.output_tokens for one in good)
    if chunks and tokens > 1.05 * chunks:
        yield (
            f"a chunk has {number(tokens / chunks)} tokens on average: the time between tokens is "
            "that between chunks"
        )
    for reason, failed in Counter(one.error for one in replies if one.error).most_common(3):
        yield f"{count(failed, 'request')} of {len(replies)} failed: {reason}"


def _between(trace: Trace, start_ns: int, stop_ns: int) -> Trace:
    """Return a trace without the readings of other levels."""
    margin_ns = round(PAUSE_S / 2 * 1e9)
    series = []
    for one in trace.series:
        first, after = np.searchsorted(one.t_ns, (start_ns - margin_ns, stop_ns + margin_ns))
        series.append(Readings(one.t_ns[first:after], one.value[first:after]))
    return replace(trace, series=tuple(series))


def _cost(energy: LlmResult, trace: Trace) -> UncertainValue:
    """Return the gross energy per output token while the server was full, in J."""
    steady, log = energy.steady_state, energy.requests
    start_s, stop_s = log.window_s if steady is None else (steady.start_s, steady.stop_s)
    edges_s = np.linspace(start_s, stop_s, BLOCKS + 1)
    edges_ns = (edges_s * 1e9).round().astype(np.int64)
    windows = [Window(int(a), int(b)) for a, b in itertools.pairwise(edges_ns)]
    energies = EnergyEstimator(trace, None, edges_ns).energies(windows)
    return cost_of_blocks([gross_energy(one, {}) for one in energies], tokens_in(log, edges_s))


def tokens_in(log: RequestLog, edges_s: Floats) -> Floats:
    """Return the output tokens between edges, spread evenly over each request's whole time.

    A prompt's prefill is work for its tokens, too. Counting tokens when they arrive would make a
    time in which a prompt is processed look costly, and the next one cheap.

    Args:
        log: The requests.
        edges_s: Shape: (edges,).

    Returns:
        Tokens. Shape: (edges - 1,).
    """
    length_s = np.maximum(log.stop_s - log.start_s, 1e-9)
    inside_s = np.clip(edges_s[:, None], log.start_s, log.stop_s) - log.start_s
    return np.diff(inside_s / length_s @ log.output_tokens)
