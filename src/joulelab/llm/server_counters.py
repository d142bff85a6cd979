"""A server's own counts of tokens, and where they disagree with what its client saw.

Servers count at ``/metrics`` in Prometheus' text format. What each means was read in its source:

- vLLM (``vllm/v1/metrics/loggers.py``, ``stats.py``): counts move with every step, and
  ``prompt_tokens`` contains cached tokens. Older versions have no ``prompt_tokens_cached``, only
  ``prefix_cache_hits``, which may count a waiting request several times.
- SGLang (``sglang/srt/observability/metrics_collector.py``, ``observe_one_finished_request``;
  needs ``--enable-metrics``): counts move when a request ends, and prompts contain cached tokens.
- llama.cpp (``tools/server/server-context.cpp``; needs ``--metrics``): ``prompt_tokens_total``
  moves when a prompt is done and excludes cached tokens, ``tokens_predicted_total`` moves when a
  request ends. Older versions have no ``prompt_tokens_cached_total``.
- Text Generation Inference (``router/src``): sums of two histograms; generated tokens
  move when a request ends.

TensorRT-LLM has no counts of tokens at ``/metrics``, but its energy at ``/energy_metrics``, which
is that of whole GPUs, idle time included: the same reading that JouleLab takes itself.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from joulelab.format import relative_to
from joulelab.llm.requests import RequestLog
from joulelab.logs.formats.prometheus import samples

if TYPE_CHECKING:
    import aiohttp

TOLERANCE = 0.01
"""Client and server agree if their totals differ by at most this."""

_TIMEOUT_S = 5.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class ServerCounters:
    """What a server had counted since its start, at one time; NaN where it does not count."""

    source: str  # Name of the server's software.
    prompt_tokens: float  # Tokens of prompts, cached ones included.
    computed_tokens: float  # Tokens of prompts that it computed, cached ones excluded.
    cached_tokens: float  # Tokens of prompts that it took from its cache.
    generation_tokens: float  # Generated tokens.
    running: float  # Requests in work.


class _Names(NamedTuple):
    """The metrics of one server; of several names of the cache, the first that it has counts."""

    source: str
    prompt: str
    cached: tuple[str, ...]
    generation: str
    running: str
    prompt_has_cached: bool = True


_SERVERS = (
    _Names(
        "vLLM",
        "vllm:prompt_tokens_total",
        (
            "vllm:prompt_tokens_cached_total",
            "vllm:prefix_cache_hits_total",
            "vllm:gpu_prefix_cache_hits_total",
        ),
        "vllm:generation_tokens_total",
        "vllm:num_requests_running",
    ),
    _Names(
        "SGLang",
        "sglang:prompt_tokens_total",
        ("sglang:cached_tokens_total",),
        "sglang:generation_tokens_total",
        "sglang:num_running_reqs",
    ),
    _Names(
        "llama.cpp",
        "llamacpp:prompt_tokens_total",
        ("llamacpp:prompt_tokens_cached_total",),
        "llamacpp:tokens_predicted_total",
        "llamacpp:requests_processing",
        prompt_has_cached=False,
    ),
    _Names(
        "Text Generation Inference",
        "tgi_request_input_length_sum",
        (),
        "tgi_request_generated_tokens_sum",
        "tgi_batch_current_size",
    ),
)


def parse_counters(text: str) -> ServerCounters | None:
    """Read the counts in a page of metrics, summed over engines and models.

    Returns:
        The counts; ``None`` if no known server wrote the page.

    Example:
        >>> counters = parse_counters('vllm:prompt_tokens_total{engine="0"} 12.0')
        >>> counters.source, counters.prompt_tokens, counters.generation_tokens
        ('vLLM', 12.0, 0.0)
    """
    totals: dict[str, float] = {}
    for name, _, value in samples(text):
        totals[name] = totals.get(name, 0.0) + value
    for names in _SERVERS:
        # A counter with labels has no line before it first counts.
        if names.prompt in totals or names.running in totals:
            prompt = totals.get(names.prompt, 0.0)
            cached = next((totals[one] for one in names.cached if one in totals), math.nan)
            has_cached = names.prompt_has_cached
            return ServerCounters(
                source=names.source,
                prompt_tokens=prompt if has_cached else prompt + cached,
                computed_tokens=prompt - cached if has_cached else prompt,
                cached_tokens=cached,
                generation_tokens=totals.get(names.generation, 0.0),
                running=totals.get(names.running, math.nan),
            )
    return None


async def read_counters(session: aiohttp.ClientSession, base_url: str) -> ServerCounters | None:
    """Read a server's counts; ``None`` if it has none, or they cannot be reached.

    Args:
        session: Also adds headers that the server asks for.
        base_url: Address of the server, with or without ``/v1``.
    """
    import aiohttp  # noqa: PLC0415

    url = base_url.rstrip("/").removesuffix("/v1") + "/metrics"
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with session.get(url, timeout=timeout) as response:
            return parse_counters(await response.text()) if response.ok else None
    except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
        return None


async def read_final_counters(
    session: aiohttp.ClientSession, base_url: str
) -> ServerCounters | None:
    """Read a server's counts once they no longer change, at most 5 s later.

    A server may count a request after it has answered it.
    """
    latest = await read_counters(session, base_url)
    for _ in range(round(_TIMEOUT_S / _POLL_S)):
        await asyncio.sleep(_POLL_S)
        previous, latest = latest, await read_counters(session, base_url)
        if latest == previous and not (latest and latest.running > 0):
            break
    return latest


def disagreements(
    requests: RequestLog, before: ServerCounters | None, after: ServerCounters | None
) -> tuple[str, ...]:
    """Compare the tokens that a client saw with those that its server counted.

    Returns:
        A note for each total that differs by more than 1 %, with the likely reasons, or one that
        the server has no counts.
    """
    if before is None or after is None or before.source != after.source:
        return (
            "The server has no counters of its own, so tokens are those that the client counted "
            "(llama.cpp counts with --metrics, SGLang with --enable-metrics).",
        )
    if after.generation_tokens < before.generation_tokens:
        return (f"{after.source} was restarted in between, so its counters were not compared.",)
    return tuple(_differences(requests, before, after))


def _differences(
    requests: RequestLog, before: ServerCounters, after: ServerCounters
) -> Iterator[str]:
    """Yield a note for each total that differs."""
    name = after.source
    inputs, cached, outputs = (
        float(column.sum())
        for column in (requests.input_tokens, requests.cached_tokens, requests.output_tokens)
    )
    server_inputs = after.prompt_tokens - before.prompt_tokens
    computed = after.computed_tokens - before.computed_tokens
    server_cached = after.cached_tokens - before.cached_tokens
    server_outputs = after.generation_tokens - before.generation_tokens
    if math.isnan(server_inputs):
        yield from _difference(name, "input tokens outside its cache", inputs - cached, computed)
    else:
        yield from _difference(name, "input tokens", inputs, server_inputs)
    yield from _difference(name, "output tokens", outputs, server_outputs)
    if abs(server_cached - cached) > TOLERANCE * max(inputs, 1.0):
        stated = f"its replies state {cached:,.0f}" if cached else "its replies state none"
        yield f"{name} took {server_cached:,.0f} input tokens from its cache; {stated}."


def _difference(name: str, what: str, seen: float, counted: float) -> Iterator[str]:
    """Yield a note if a total of the client's and the server's differ."""
    if abs(seen - counted) <= TOLERANCE * max(seen, counted):
        return
    why = (
        "other clients, or tokens that it did not send"
        if counted > seen
        else "requests that it has not counted, or counts that the client estimated"
    )
    ratio = f" ({relative_to(counted / seen, math.nan, math.nan)[0]})" if seen > 0 else ""
    yield (
        f"{name} counted {counted:,.0f} {what} and the client {seen:,.0f}{ratio}. "
        f"Likely reasons: {why}."
    )


class ReplyCounts(NamedTuple):
    """What a server states in a reply about its own work; NaN where it does not."""

    input_tokens: float  # Tokens of the prompt, cached ones included.
    cached_tokens: float  # Of these, tokens that it took from its cache.
    output_tokens: float  # Generated tokens.


def reply_counts(reply: Mapping[str, Any]) -> ReplyCounts:
    """Read OpenAI's ``usage`` and llama.cpp's ``timings`` in a reply, or in its last chunk.

    llama.cpp's ``prompt_n`` excludes the ``cache_n`` tokens of its cache
    (``tools/server/server-task.cpp``, ``result_timings``).
    """
    usage, timings = _mapping(reply, "usage"), _mapping(reply, "timings")
    cached = _value(_mapping(usage, "prompt_tokens_details"), "cached_tokens")
    if math.isnan(cached):
        cached = _value(timings, "cache_n")
    inputs = _value(usage, "prompt_tokens")
    if math.isnan(inputs):
        inputs = _value(timings, "prompt_n") + _value(timings, "cache_n")
    outputs = _value(usage, "completion_tokens")
    if math.isnan(outputs):
        outputs = _value(timings, "predicted_n")
    return ReplyCounts(input_tokens=inputs, cached_tokens=cached, output_tokens=outputs)


def _mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object in another; empty if there is none."""
    found = data.get(name)
    return found if isinstance(found, Mapping) else {}


def _value(data: Mapping[str, Any], name: str) -> float:
    """Return a number that is not negative; NaN if there is none."""
    found = data.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or found < 0:
        return math.nan
    return float(found)
