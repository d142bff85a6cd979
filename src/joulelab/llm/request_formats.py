"""Logs that load generators write: vLLM's benchmark, guidellm and aiperf.

To add a tool, write a function that yields a :class:`Row` for each request and add a
:class:`Format` to :data:`FORMATS`.

Requests that failed or were aborted used energy: they are kept with the tokens that they got, if
the log states when they ran, and otherwise left out with a note.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

from joulelab.errors import UserError
from joulelab.format import count
from joulelab.validation import Count, Finite, InvalidData, NotNegative, convert

Objects = Sequence[Mapping[str, Any]]
_Objects = list[dict[str, Any]]


class Row(NamedTuple):
    """A request of a file; times in seconds, NaN for what is not known."""

    where: str  # In the file, for a message.
    request: str
    start_s: float
    first_token_s: float
    stop_s: float
    input_tokens: float
    output_tokens: float
    cached_tokens: float


class Format(NamedTuple):
    """The log of a tool: its name, whether its first object is of it, and its rows."""

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    rows: Callable[[Objects, list[str]], Iterator[Row]]


class _VllmResult(TypedDict):
    """What ``vllm bench serve --save-detailed`` writes, in seconds (vllm/benchmarks/serve.py)."""

    input_lens: list[Count]
    output_lens: list[Count]
    ttfts: list[NotNegative]
    itls: list[list[NotNegative]]
    start_times: NotRequired[list[NotNegative]]
    latencies: NotRequired[list[NotNegative]]
    errors: NotRequired[list[str | None]]


def _vllm_rows(objects: Objects, notes: list[str]) -> Iterator[Row]:
    """Iterate over the requests of one or several results, which --append-result joins."""
    left_out = by_chunks = 0
    for run, one in enumerate(objects, 1):
        if "input_lens" not in one:
            raise UserError(
                "the result has no single requests",
                hint="run vLLM's benchmark with --save-result --save-detailed",
            )
        result = convert(one, _VllmResult)
        if "start_times" not in result:
            raise UserError(
                "the result does not state when its requests began",
                why="it is of an older vLLM",
                hint="update vLLM's benchmark, or use guidellm or aiperf",
            )
        number = len(result["input_lens"])
        lists = [value for value in result.values() if isinstance(value, list)]
        if any(len(value) != number for value in lists):
            raise InvalidData("its lists are of different lengths")
        errors = result.get("errors") or [""] * number
        latencies = result.get("latencies") or [0.0] * number
        for i, (start_s, ttft_s, gaps_s) in enumerate(
            zip(result["start_times"], result["ttfts"], result["itls"], strict=True)
        ):
            # The last chunk arrived after all gaps. A failed request has no latency.
            length_s = max(latencies[i], ttft_s + math.fsum(gaps_s))
            if not (start_s and length_s):
                left_out += 1
                continue
            tokens = result["output_lens"][i]
            if errors[i] and not tokens and ttft_s:
                tokens = 1 + len(gaps_s)
                by_chunks += 1
            label = f"{run}.{i + 1}" if len(objects) > 1 else str(i + 1)
            first_s = start_s + ttft_s if ttft_s else math.nan
            inputs = result["input_lens"][i]
            yield Row(
                f"request {label}", label, start_s, first_s, start_s + length_s, inputs, tokens,
                math.nan,
            )  # fmt: skip
    _note_left_out(left_out, notes)
    if by_chunks:
        notes.append(
            f"{count(by_chunks, 'request')} failed: an output token is counted for each chunk"
        )


def _guidellm_rows(objects: Objects, notes: list[str]) -> Iterator[Row]:
    """Iterate over the requests of all benchmarks of a report (guidellm/schemas/base)."""
    benchmarks = [one for each in objects for one in convert(each.get("benchmarks"), _Objects)]
    if len(benchmarks) > 1:
        notes.append(f"the requests of {count(len(benchmarks), 'benchmark')} are taken together")
    left_out = unknown = 0
    for run, benchmark in enumerate(benchmarks, 1):
        groups = convert(benchmark.get("requests"), dict[str, _Objects | None])
        listed = [
            (status, one)
            for status in ("successful", "incomplete", "errored")
            for one in groups.get(status) or []
        ]
        _check_sample(benchmark, len(listed), notes)
        for i, (status, one) in enumerate(listed, 1):
            label = f"{run}.{i}" if len(benchmarks) > 1 else str(i)
            name = f"request {label}"
            start_s = _lookup(
                one, "info.timings.request_start", "scheduler_info.request_timings.request_start",
                "request_start_time", "start_time",
            )  # fmt: skip
            first_s = _lookup(
                one, "info.timings.first_token_iteration", "info.timings.first_iteration",
                "scheduler_info.request_timings.first_iteration", "first_token_time",
            )  # fmt: skip
            stop_s = _lookup(
                one, "info.timings.last_token_iteration", "info.timings.last_iteration",
                "info.timings.request_end", "info.timings.resolve_end",
                "scheduler_info.request_timings.last_iteration",
                "scheduler_info.request_timings.request_end",
                "last_token_time", "request_end_time", "end_time",
            )  # fmt: skip
            inputs, outputs = _lookup(one, "prompt_tokens"), _lookup(one, "output_tokens")
            if math.isnan(start_s) or math.isnan(stop_s):
                left_out += 1
                continue
            if status == "successful" and (math.isnan(inputs) or math.isnan(outputs)):
                raise InvalidData(f"{name} has no numbers of tokens")
            unknown += math.isnan(inputs)
            cached = _lookup(one, "cached_tokens", "input_metrics.cached_tokens")
            yield Row(
                name, label, start_s, first_s, stop_s, _or_zero(inputs), _or_zero(outputs), cached
            )
    _note_left_out(left_out, notes)
    _note_unknown(unknown, notes)


MOST_UNLISTED = 0.1
"""A report that lacks a larger share of its requests has only a sample of them."""


def _check_sample(benchmark: Mapping[str, Any], listed: int, notes: list[str]) -> None:
    """Raise an error if a report has only a sample of its requests."""
    made = _or_zero(
        _lookup(
            benchmark, "scheduler_metrics.requests_made.total", "run_stats.requests_made.total",
            "metrics.request_totals.total",
        )
    )  # fmt: skip
    if listed < (1 - MOST_UNLISTED) * made:
        raise UserError(
            f"the report lists {listed} of {made:.0f} requests",
            why="the energy of the others would be counted as theirs",
            hint="run guidellm without --sample-requests",
        )
    if listed < made:
        notes.append(
            f"{count(int(made) - listed, 'request')} of the warm-up or cool-down are not listed: "
            "their energy is in that of the others"
        )


_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "sec": 1.0, "s": 1.0, "seconds": 1.0}


def _aiperf_rows(objects: Objects, notes: list[str]) -> Iterator[Row]:
    """Iterate over records of ``profile_export.jsonl`` (aiperf/common/models/record_models.py)."""
    left_out = unknown = 0
    for i, one in enumerate(objects, 1):
        start_ns, stop_ns = (
            _lookup(one, f"metadata.{name}", kind=Count)
            for name in ("request_start_ns", "request_end_ns")
        )
        if math.isnan(start_ns) or math.isnan(stop_ns):
            left_out += 1
            continue
        start_s, stop_s = start_ns * 1e-9, stop_ns * 1e-9
        unit = _find(one, "metrics.time_to_first_token.unit") or "ms"
        if not isinstance(unit, str) or unit not in _UNITS:
            raise InvalidData(f"request {i}: the unit {unit!r} of time_to_first_token is unknown")
        first_s = start_s + _UNITS[unit] * _lookup(one, "metrics.time_to_first_token.value")
        # The server's own counts, then those of aiperf's tokenizer.
        inputs = _lookup(
            one, "metrics.usage_prompt_tokens.value", "metrics.input_sequence_length.value",
            "metrics.error_isl.value",
        )  # fmt: skip
        outputs = _lookup(
            one, "metrics.usage_completion_tokens.value", "metrics.output_sequence_length.value",
            "metrics.output_token_count.value",
        )  # fmt: skip
        if not one.get("error") and (math.isnan(inputs) or math.isnan(outputs)):
            raise InvalidData(f"request {i} has no numbers of tokens")
        unknown += math.isnan(inputs)
        label = str(_find(one, "metadata.x_request_id") or i)
        cached = _lookup(one, "metrics.usage_prompt_cache_read_tokens.value")
        yield Row(
            f"request {i}", label, start_s, first_s, stop_s, _or_zero(inputs), _or_zero(outputs),
            cached,
        )  # fmt: skip
    _note_left_out(left_out, notes)
    _note_unknown(unknown, notes)


def _refuse_summary(objects: Objects, notes: list[str]) -> Iterator[Row]:
    """Refuse ``profile_export_aiperf.json``, which only has statistics."""
    raise UserError(
        "it has no single requests, only their statistics",
        hint="give profile_export.jsonl of the same directory",
    )


def _find(one: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path; ``None`` if there is none."""
    value: Any = one
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _lookup(one: Mapping[str, Any], *paths: str, kind: Any = Finite) -> float:
    """Return the first number that there is at one of these paths; NaN if there is none."""
    for path in paths:
        value = _find(one, path)
        if value is not None:
            try:
                return float(convert(value, kind))
            except InvalidData as error:
                raise InvalidData(f"{path}: {error}") from error
    return math.nan


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _note_left_out(number: int, notes: list[str]) -> None:
    if number:
        notes.append(f"{count(number, 'request')} that failed left out: when they ran is unknown")


def _note_unknown(number: int, notes: list[str]) -> None:
    if number:
        notes.append(
            f"{count(number, 'request')} that failed without numbers of tokens: counted as 0"
        )


FORMATS = (
    Format("vLLM's benchmark", lambda one: "input_lens" in one or (
        "total_input_tokens" in one and "request_throughput" in one), _vllm_rows),
    Format("guidellm", lambda one: isinstance(one.get("benchmarks"), list), _guidellm_rows),
    Format("aiperf", lambda one: isinstance(one.get("metadata"), dict) and (
        "request_start_ns" in one["metadata"]), _aiperf_rows),
    Format("aiperf's summary", lambda one: isinstance(one.get("request_throughput"), dict),
        _refuse_summary),
)  # fmt: skip
"""In the order in which they are tried, by the first object of a file."""
