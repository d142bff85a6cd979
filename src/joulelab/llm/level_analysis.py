"""The requests, latencies and energy of a level of load."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from joulelab.arrays import Floats
from joulelab.energy.baseline import Baseline
from joulelab.energy.estimator import EnergyEstimator
from joulelab.energy.uncertainty import gross_energy
from joulelab.errors import UserError
from joulelab.format import count, number, percent
from joulelab.llm.bench_result import LevelResult, Percentiles
from joulelab.llm.load import LevelLoad
from joulelab.llm.openai_client import Reply
from joulelab.llm.power_fit import MARGIN_S
from joulelab.llm.prompts import Tokenizer
from joulelab.llm.requests import RequestLog
from joulelab.llm.result import LlmResult
from joulelab.llm.server_activity import Phase
from joulelab.llm.server_counters import ServerCounters, disagreements
from joulelab.llm.sweep import BLOCKS, cost_of_blocks
from joulelab.llm.token_attribution import attribute
from joulelab.recording.trace import Readings, Trace
from joulelab.recording.trace_spans import Window
from joulelab.uncertain import UncertainValue

MOST_CACHED = 0.05
"""A larger part of the input tokens from the server's cache is stated."""


@dataclass(frozen=True, slots=True)
class MeasuredLevel:
    """A level that ran."""

    load: LevelLoad  # Its requests.
    start_ns: int  # When it began, CLOCK_MONOTONIC.
    stop_ns: int  # When it ended.
    client_cpu_s: float  # CPU time of the load generator.
    before: ServerCounters | None  # What the server counted before; ``None`` if it does not count.
    after: ServerCounters | None  # What it had counted after.


def level_result(
    level: MeasuredLevel, log: RequestLog, trace: Trace | None, baseline: Baseline | None
) -> LevelResult:
    """Compute latencies and, with a recording, energies of a level."""
    replies = level.load.replies
    good = [one for one in replies if not one.error]
    gaps_ns = [np.diff(one.chunk_ns) for one in good if len(one.chunk_ns) > 1]
    counted = disagreements(log, level.before, level.after)
    result = LevelResult(
        level=level.load.level,
        requests=log,
        failures=Counter(one.error for one in replies if one.error),
        first_token=Percentiles.of(
            [(one.chunk_ns[0] - one.start_ns) * 1e-9 for one in good if one.chunk_ns]
        ),
        between_tokens=Percentiles.of(np.concatenate(gaps_ns) * 1e-9 if gaps_ns else []),
        latency=Percentiles.of([(one.stop_ns - one.start_ns) * 1e-9 for one in good]),
        client_cpu_s=level.client_cpu_s,
        notes=(
            *level.load.notes,
            *_reply_notes(replies),
            *(note.removesuffix(".") for note in counted),
        ),
    )
    if trace is None or not len(log):
        return result
    own = _between(trace, level.start_ns, level.stop_ns)
    try:
        energy = attribute(log, own, baseline)
    except UserError as error:
        return replace(result, notes=(*result.notes, str(error)))
    cost = _cost(energy, own, is_closed=result.level.concurrency is not None)
    return replace(result, energy=energy, cost=cost)


def request_log(replies: Sequence[Reply], first: int, tokenizer: Tokenizer) -> RequestLog:
    """Return the requests that the server answered, in order of their start, on CLOCK_MONOTONIC.

    Where the server reports no tokens, those of the prompt are estimated, and the chunks counted.
    """
    replies = sorted((one for one in replies if one.was_answered), key=lambda one: one.start_ns)
    inputs = [one.counts.input_tokens for one in replies]
    estimated = [
        tokens if math.isfinite(tokens) else round(tokenizer.tokens_of(one.prompt))
        for one, tokens in zip(replies, inputs, strict=True)
    ]
    first_ns = [one.chunk_ns[0] if one.chunk_ns else math.nan for one in replies]
    return RequestLog(
        request=tuple(str(first + i) for i in range(len(replies))),
        start_s=np.array([one.start_ns for one in replies]) * 1e-9,
        first_token_s=np.array(first_ns) * 1e-9,
        stop_s=np.array([one.stop_ns for one in replies]) * 1e-9,
        input_tokens=np.array(estimated, dtype=np.float64),
        output_tokens=np.array([one.output_tokens for one in replies], dtype=np.float64),
        cached_tokens=np.nan_to_num([one.counts.cached_tokens for one in replies], nan=0.0),
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
    margin_ns = round(MARGIN_S * 1e9)
    series = []
    for one in trace.series:
        first, after = np.searchsorted(one.t_ns, (start_ns - margin_ns, stop_ns + margin_ns))
        series.append(Readings(one.t_ns[first:after], one.value[first:after]))
    return replace(trace, series=tuple(series))


def _cost(energy: LlmResult, trace: Trace, *, is_closed: bool) -> UncertainValue:
    """Return the gross energy per output token while a closed loop was full, in J."""
    steady, log = energy.steady_state, energy.requests
    start_s, stop_s = log.window_s
    if steady is not None and is_closed:
        start_s, stop_s = steady.start_s, steady.stop_s
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
    return Phase.of(log.start_s, log.stop_s, log.output_tokens).spread(log.output_tokens, edges_s)
