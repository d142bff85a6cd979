"""The trace on disk: what the recorder appends and any process can read.

A trace is a directory with two files, both only ever appended to:

``trace.bin``
    A line of JSON (the header, with its checksum), padded with spaces to a multiple of 24 bytes,
    then records of 24 bytes, little-endian: ``t_ns`` (int64, CLOCK_MONOTONIC), ``value`` (float64;
    NaN is a gap: the channel was read and gave nothing), ``channel`` (uint32, position in the
    header's list) and ``check`` (uint32, chosen so that the exclusive-or of the record's six 32-bit
    words is :data:`CHECK`). The length shows a record cut short by a kill, and the check a tail of
    zeros left by a power failure; everything before is whole.

``events.jsonl``
    Lines of JSON: ``spans`` (rows of index, parent, thread, name, attributes, start and stop; the
    row of an open span is replaced by that with its stop, whichever comes first), ``span_columns``
    (many finished spans as columns, see ``span_blocks.py``), ``devices`` (rows of index,
    start and stop on the GPU, and their standard uncertainty), why a channel had a ``gap``, which
    processes ``joined`` the recording (with their rank in a job and the GPUs that they may use),
    on which GPUs they had a ``cuda`` context, when they ``left``, and why the recording came to
    its ``stop``. A last line without a line end is not read.

Importing pyarrow would take 79 MB where the whole recorder takes 20; a row of an SQLite table takes
30 times as long to read back as these 24 bytes, which NumPy maps without parsing.
"""

from __future__ import annotations

import json
import os
import select
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

READINGS_FILE = "trace.bin"
EVENTS_FILE = "events.jsonl"
RUN_FILE = "run.json"
TEMPORARY = "joulelab-trace-"
"""Begins the names of temporary directories of recordings."""
SCHEMA = "joulelab-trace-2"
RECORD_SIZE = 24
CHECK = 0x4A4C5452
ATOMIC_WRITE_BYTES = select.PIPE_BUF
"""A line of this length at most reaches the recorder whole (pipe(7))."""
ROWS_PER_LINE = 24
SPAN_COLUMNS = "span_columns"
"""The event of many spans as columns."""
TUNED = "tuned"
"""The event of settings that were chosen while a loop ran."""
FORECAST = "forecast"
"""The event of a forecast that a loop made of itself."""

CHECKSUM = b', "crc32": '
"""Comes last in the header, before the checksum of everything else in it."""
_RECORD = struct.Struct("<qdII")
_WORD_BITS = 32
_FIRST_WORD = b"\xff" * 4 + bytes(RECORD_SIZE - 4)
_FIRST_CHECK = CHECK.to_bytes(4, "little") + bytes(RECORD_SIZE - 4)

encode = json.JSONEncoder(default=str, separators=(",", ":")).encode
"""Writes any attribute: what JSON lacks becomes text."""


def pack(t_ns: int, value: float, channel: int) -> bytes:
    """Pack one reading into a record."""
    return pack_all([(t_ns, value, channel)])


def pack_all(readings: Sequence[tuple[int, float, int]]) -> bytes:
    """Pack the time, value and channel of each reading into records.

    The checks of all are calculated at once, with the records as one number: shifted by one to four
    words each and combined, the first word of each record is the exclusive-or of its first five.
    """
    data = b"".join([_RECORD.pack(t_ns, value, i, 0) for t_ns, value, i in readings])
    whole = int.from_bytes(data, "little")
    combined = whole
    for words in range(1, 5):
        combined ^= whole >> (words * _WORD_BITS)
    checks = (combined & int.from_bytes(_FIRST_WORD * len(readings), "little")) ^ int.from_bytes(
        _FIRST_CHECK * len(readings), "little"
    )
    return (whole | checks << (5 * _WORD_BITS)).to_bytes(len(data), "little")


def pack_header(header: Mapping[str, Any]) -> bytes:
    """Encode the header's line with its checksum, padded so that the records are aligned."""
    text = json.dumps({"schema": SCHEMA, **header}).encode()
    text = text[:-1] + b"%s%d}" % (CHECKSUM, zlib.crc32(text))
    padding = -(len(text) + 1) % RECORD_SIZE
    return text + b" " * padding + b"\n"


def span_lines(kind: str, rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """Encode rows of ``"spans"`` or ``"devices"`` as lines that reach the recorder whole.

    Many rows in one call block the interpreter once, for a moment, where one call for each would
    take it from the program's threads again and again. What cannot be written of a span's name and
    attributes is left out.
    """
    done: list[bytes] = []
    for first in range(0, len(rows), ROWS_PER_LINE):
        some = rows[first : first + ROWS_PER_LINE]
        line = _span_line(kind, some)
        if line is not None:
            done.append(line)
        elif len(some) > 1:
            half = len(some) // 2
            done += span_lines(kind, some[:half]) + span_lines(kind, some[half:])
        else:
            index, parent, thread, name, _, *times = some[0]
            name = name[:256] if isinstance(name, str) else "?"
            short = (index, parent, thread, name, {"attributes_omitted": True}, *times)
            done += span_lines(kind, [short])
    return done


def _span_line(kind: str, rows: Sequence[tuple[Any, ...]]) -> bytes | None:
    try:
        line = encode({"event": kind, "pid": os.getpid(), "rows": rows}).encode() + b"\n"
    except Exception:  # noqa: BLE001  (attributes are any objects, and may change at any moment)
        return None
    return line if len(line) <= ATOMIC_WRITE_BYTES else None


class TraceWriter:
    """Appends to a new trace in a directory. Only the recorder has one.

    Each call passes whole records to the operating system, so a recorder that is killed leaves
    everything that it had written. If there is a trace already, it raises ``FileExistsError``.
    """

    def __init__(self, directory: Path, header: Mapping[str, Any]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._events = os.open(directory / EVENTS_FILE, flags, 0o600)
        self._readings = os.open(directory / READINGS_FILE, flags, 0o600)
        _write_all(self._readings, pack_header(header))

    def readings(self, records: Iterable[bytes]) -> None:
        """Append packed records."""
        data = b"".join(records)
        if data:
            _write_all(self._readings, data)

    def events(self, data: bytes) -> None:
        """Append whole lines of JSON."""
        _write_all(self._events, data)

    def event(self, **fields: Any) -> None:
        """Append one event."""
        self.events(json.dumps(fields).encode() + b"\n")

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._readings)
        os.fsync(self._events)

    def close(self) -> None:
        """Sync and close both files."""
        self.sync()
        os.close(self._readings)
        os.close(self._events)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
