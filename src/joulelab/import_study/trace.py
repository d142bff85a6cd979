"""The part of a log that belongs to a run, written as the recorder writes a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulelab.logs.power_log import Log
from joulelab.recording.trace import RECORD, Readings
from joulelab.recording.trace_format import CHECK, TraceWriter

MARGIN_S = 2.0
"""So much of the log before and after each span is kept: an average may reach back 1 s."""

Stretch = tuple[int, int]
"""Start and stop in nanoseconds on the log's clock."""


def write_slice(directory: Path, log: Log, spans: Sequence[Mapping[str, Any]]) -> None:
    """Writes the readings around some spans, and the spans, into an empty directory.

    Args:
        directory: Where the trace is made.
        log: All readings.
        spans: With ``name``, ``attributes``, ``start_ns`` and ``stop_ns``.

    Raises:
        OSError: It cannot be written.
    """
    around = [(span["start_ns"], span["stop_ns"]) for span in spans]
    header = {
        "channels": [channel.to_json() for channel in log.trace.channels],
        "intervals_s": list(log.trace.header["intervals_s"]),
        "absent": [],
        "recorded": list(log.notes),
        "origin_s": log.origin_s,
    }
    writer = TraceWriter(directory, header)
    try:
        writer.readings([_records(log.trace.series, around)])
        writer.event(
            event="spans",
            pid=0,
            rows=[
                [i, None, 0, span["name"], span["attributes"], span["start_ns"], span["stop_ns"]]
                for i, span in enumerate(spans)
            ],
        )
    finally:
        writer.close()


def _records(series: Sequence[Readings], around: Sequence[Stretch]) -> bytes:
    """The records of every channel around the spans, by time."""
    parts = []
    for position, readings in enumerate(series):
        chosen = _chosen(readings.t_ns, around)
        part = np.zeros(int(np.count_nonzero(chosen)), dtype=RECORD)
        part["t_ns"], part["value"] = readings.t_ns[chosen], readings.value[chosen]
        part["channel"] = position
        parts.append(part)
    records = np.concatenate(parts)
    records = records[np.argsort(records["t_ns"], kind="stable")]
    words = records.view("<u4").reshape(-1, RECORD.itemsize // 4)
    records["check"] = np.bitwise_xor.reduce(words[:, :-1], axis=1) ^ np.uint32(CHECK)
    return records.tobytes()


def _chosen(t_ns: NDArray[np.int64], around: Sequence[Stretch]) -> NDArray[np.bool_]:
    margin_ns = round(MARGIN_S * 1e9)
    chosen = np.zeros(t_ns.size, dtype=bool)
    for start_ns, stop_ns in around:
        first, last = np.searchsorted(t_ns, (start_ns - margin_ns, stop_ns + margin_ns))
        # One reading more on either side: a slow log has none within the margin.
        chosen[max(0, first - 1) : last + 1] = True
    return chosen
