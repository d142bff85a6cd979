"""When a run of MLPerf was, from its own log: lines of ``:::MLLOG`` with one JSON object each.

Training logs ``run_start`` and ``run_stop``, in milliseconds since 1970 (MLPerf Training rules,
"Timing"). LoadGen of Inference logs dates of the power meter's clock as the values of
``power_begin`` and ``power_end``, and the samples of a query (``mlperf_log_detail.txt``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joulelab.errors import UserError
from joulelab.logs.columns import LogOptions
from joulelab.logs.formats.json_text import mllog_events
from joulelab.logs.formats.log_text import LogText, to_seconds
from joulelab.logs.span_energies import SAMPLES, ImportedSpan

_BEGINS = {"run_start": "run_stop", "power_begin": "power_end"}
_QUERIES, _SAMPLES_OF_A_QUERY = "generated_query_count", "effective_samples_per_query"
_SCENARIO, _OFFLINE = "effective_scenario", "Offline"
"""Only in this scenario LoadGen issues every query that it generates."""


def read_run_windows(path: Path, timezone: str | None = None) -> list[ImportedSpan]:
    """Read when the runs of an MLPerf log began and ended, and how many samples they processed.

    Args:
        path: Result of MLPerf Training, or ``mlperf_log_detail.txt`` of Inference.
        timezone: Of dates; ``None`` for this machine's.

    Raises:
        UserError: The log has no run, or one without an end.
    """
    log = LogText(path, LogOptions(timezone=timezone))
    begin: tuple[str, float] | None = None
    windows: list[tuple[float, float]] = []
    stated: dict[str, Any] = {}
    for event in mllog_events(log):
        key = event["key"]
        stated[key] = event.get("value")
        if key in _BEGINS:
            begin = (_BEGINS[key], _time_s(log, event))
        elif begin is not None and key == begin[0]:
            windows.append((begin[1], _time_s(log, event)))
            begin = None
    if begin is not None or not windows:
        why = f"it has no {begin[0]}" if begin else f"it has none of {', '.join(_BEGINS)}"
        raise UserError(
            f"{path} does not state when a run was",
            why=why,
            hint="give MLPerf's result file or mlperf_log_detail.txt, or spans as CSV with --spans",
        )
    samples = _samples(stated) if len(windows) == 1 else None
    attributes = {} if samples is None else {SAMPLES: str(samples)}
    names = [f"run {i}" for i in range(1, len(windows) + 1)] if len(windows) > 1 else ["run"]
    spans = [
        ImportedSpan(name, *window, attributes) for name, window in zip(names, windows, strict=True)
    ]
    bad = next((one for one in spans if not one.stop_s >= one.start_s), None)
    if bad is not None:
        raise UserError(
            f"{path}: {bad.name} has no valid time",
            why=f"it starts at {bad.start_s:.12g} s and stops at {bad.stop_s:.12g} s",
        )
    return spans


def _time_s(log: LogText, event: Mapping[str, Any]) -> float:
    """Return the time of an event; those of LoadGen have their own, as a value."""
    time = event["value"] if event["key"] in ("power_begin", "power_end") else event["time_ms"]
    found = to_seconds(log, [str(time)])
    return float(found[0]) if found.size else math.nan


def _samples(stated: Mapping[str, Any]) -> int | None:
    if stated.get(_SCENARIO) != _OFFLINE:
        return None
    numbers = [stated.get(key) for key in (_QUERIES, _SAMPLES_OF_A_QUERY)]
    queries, samples = (one if isinstance(one, int) else 0 for one in numbers)
    return queries * samples or None
