"""The trace on disk: what the recorder appends and any process can read.

A trace is a directory with two files, both only ever appended to:

``trace.bin``
    A line of JSON (the header), padded with spaces to a multiple of 24 bytes, then records of
    24 bytes, little-endian: ``t_ns`` (int64, CLOCK_MONOTONIC), ``value`` (float64; NaN is a gap:
    the channel was asked and gave nothing), ``channel`` (uint32, position in the header's list)
    and ``check`` (uint32, so that the exclusive-or of the record's six 32-bit words is
    :data:`CHECK`). A record cut short by a kill, or a tail of zeros left by a power failure, is
    told by its length or its check, and everything before it is whole.

``events.jsonl``
    Lines of JSON: ``spans`` (rows of index, parent, thread, name, attributes, start and stop; a
    later row of the same process and index has more), ``devices`` (rows of index, start and stop
    on the GPU, and their standard uncertainty), why a channel had a ``gap``, which processes
    ``joined`` the recording (with their place in a job and the GPUs that they may use), on which
    GPUs they had a ``cuda`` context, when they ``left``, and how the recording came to its
    ``stop``. A last line without its end of line is not read.

Why not Arrow, Parquet or SQLite: the recorder runs beside what it measures, and importing pyarrow
alone takes 79 MB where the whole recorder takes 20; a row of an SQLite table takes 30 times as
long to read back as these 24 bytes, which NumPy maps without parsing.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

READINGS_FILE = "trace.bin"
EVENTS_FILE = "events.jsonl"
SCHEMA = "joulelab-trace-2"
RECORD_SIZE = 24
CHECK = 0x4A4C5452

_RECORD = struct.Struct("<qdII")
_WORDS = struct.Struct("<5I")


def pack(t_ns: int, value: float, channel: int) -> bytes:
    """One record.

    Example:
        >>> len(pack(1, 2.5, 0))
        24
    """
    unchecked = _RECORD.pack(t_ns, value, channel, 0)
    check = CHECK
    for word in _WORDS.unpack_from(unchecked):
        check ^= word
    return unchecked[:20] + check.to_bytes(4, "little")


def pack_header(header: Mapping[str, Any]) -> bytes:
    """The header's line, padded so that records are aligned."""
    text = json.dumps({"schema": SCHEMA, **header}).encode()
    padding = -(len(text) + 1) % RECORD_SIZE
    return text + b" " * padding + b"\n"


def read_header(directory: Path) -> dict[str, Any]:
    """The header of the trace in a directory, once it is there.

    Raises:
        OSError: There is no trace.
        ValueError: It is not one that this version can read.
    """
    with (directory / READINGS_FILE).open("rb") as file:
        line = file.readline()
    header = json.loads(line) if line.endswith(b"\n") else None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"its first line does not name {SCHEMA}")
    return header


def boot_id() -> str:
    """Names the time since this machine last started: CLOCK_MONOTONIC means nothing across it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class TraceWriter:
    """Appends to a trace. Only the recorder has one.

    Each call hands the operating system whole records at once, so that a killed recorder leaves
    everything that it had written. Imports nothing but the standard library.

    Args:
        directory: Where the two files are made; it exists and holds no trace.
        header: What :class:`joulelab.recording.trace.Trace` gives back as its header.

    Raises:
        FileExistsError: There is a trace already.
        OSError: The directory cannot be written to.
    """

    def __init__(self, directory: Path, header: Mapping[str, Any]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._events = os.open(directory / EVENTS_FILE, flags, 0o644)
        self._readings = os.open(directory / READINGS_FILE, flags, 0o644)
        _write_all(self._readings, pack_header(header))

    def readings(self, records: Iterable[bytes]) -> None:
        """Appends packed records."""
        data = b"".join(records)
        if data:
            _write_all(self._readings, data)

    def events(self, data: bytes) -> None:
        """Appends whole lines of JSON."""
        _write_all(self._events, data)

    def event(self, **fields: Any) -> None:
        """Appends one event."""
        self.events(json.dumps(fields).encode() + b"\n")

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        os.fsync(self._readings)
        os.fsync(self._events)

    def close(self) -> None:
        """Syncs and closes."""
        self.sync()
        os.close(self._readings)
        os.close(self._events)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
