"""The header and the events of a trace: their types, and the checks of what is read.

A program that was killed, a full disk or another process may have damaged any line.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, Required, TypedDict

import msgspec

from joulelab.recording.launcher import BatchJob, Launch
from joulelab.recording.trace_format import CHECKSUM, FORECAST, READINGS_FILE, SCHEMA, TUNED
from joulelab.sensors.sensor import Absence, Channel
from joulelab.storage import open_regular
from joulelab.validation import (
    Count,
    Finite,
    InvalidData,
    Nanoseconds,
    NotNegative,
    Period,
    Pid,
    UnixTime,
    convert,
    parse_json,
)

LONGEST_HEADER_BYTES = 1 << 24
_EVENT = b'{"event":"'


class TraceHeader(TypedDict, total=False):
    """What the recorder states about itself. Traces made from logs have only a part of it."""

    channels: Required[list[Channel]]
    absent: Required[list[Absence]]
    intervals_s: list[Period]
    gpus: dict[str, list[str]]
    pid: Pid
    parent_pid: Pid
    socket: str | None
    host: str
    boot_id: str
    job: BatchJob | None
    complements: bool
    start_ns: Nanoseconds
    start_unix_s: UnixTime


class SpanRows(TypedDict):
    """The event ``spans``: index, parent, thread, name, attributes, start and stop of each."""

    event: Literal["spans"]
    pid: Pid
    rows: list[tuple[Count, Count | None, Count | None, Any, dict[str, Any], Nanoseconds,
                     Nanoseconds | None]]  # fmt: skip


class PackedNumbers(TypedDict, total=False):
    """A column of numbers; see ``span_blocks.py``."""

    type: Required[Literal["u1", "u2", "u4", "u8", "f8"]]
    after: int
    data: Required[str]


class SpanBlock(TypedDict):
    """The event ``span_columns``: many finished spans."""

    event: Literal["span_columns"]
    pid: Pid
    names: list[str]
    columns: dict[str, PackedNumbers]
    attributes: dict[str, PackedNumbers | list[Any]]


class DeviceRows(TypedDict):
    """The event ``devices``: index, start, stop and uncertainty of each."""

    event: Literal["devices"]
    pid: Pid
    rows: list[tuple[Count, Nanoseconds | None, Nanoseconds | None, Count]]


class _OtherEvent(TypedDict, total=False):
    event: Required[str]
    t_ns: Nanoseconds


class _GapEvent(TypedDict):
    event: str
    t_ns: Nanoseconds
    channel: Count
    reason: str


class _ReasonEvent(TypedDict):
    event: str
    t_ns: Nanoseconds
    reason: str


class _JoinedEvent(TypedDict, total=False):
    event: Required[str]
    t_ns: Required[Nanoseconds]
    pid: Required[Pid]
    launch: Launch | None
    gpus: list[str] | None
    gpus_on_host: str | None


class _LeftEvent(TypedDict):
    event: str
    t_ns: Nanoseconds
    pid: Pid


class _CudaEvent(TypedDict):
    event: str
    pid: Pid
    gpus: list[tuple[int, str | None]]


class _ScanEvent(TypedDict):
    event: str
    pace_s: Period


class _OthersEvent(TypedDict, total=False):
    event: Required[str]
    t_ns: Required[Nanoseconds]
    component: Required[str]
    since_ns: Nanoseconds
    used: Required[list[tuple[int, str, NotNegative]]]
    more: Required[Count]


class _TunedEvent(TypedDict):
    event: str
    t_ns: Nanoseconds
    pid: Pid
    text: str
    result: dict[str, Any]


class _ForecastEvent(TypedDict):
    event: str
    t_ns: Nanoseconds
    pid: Pid
    epochs: Finite
    epochs_seen: Finite
    gross_j: Finite | None
    gross_low_j: Finite | None
    gross_high_j: Finite | None
    duration_s: Finite
    duration_low_s: Finite
    duration_high_s: Finite


_EVENTS: Mapping[str, type] = {
    "spans": SpanRows,
    "span_columns": SpanBlock,
    "devices": DeviceRows,
    "gap": _GapEvent,
    "device_failed": _ReasonEvent,
    "stop": _ReasonEvent,
    "joined": _JoinedEvent,
    "left": _LeftEvent,
    "cuda": _CudaEvent,
    "looks": _ScanEvent,
    "others": _OthersEvent,
    TUNED: _TunedEvent,
    FORECAST: _ForecastEvent,
}
_DECODERS: Mapping[bytes, msgspec.json.Decoder[Any]] = {
    b"spans": msgspec.json.Decoder(SpanRows),
    b"span_columns": msgspec.json.Decoder(SpanBlock),
    b"devices": msgspec.json.Decoder(DeviceRows),
}


def parse_header(line: bytes) -> TraceHeader:
    """Decode the header's line; earlier versions wrote it without a checksum.

    Raises:
        InvalidData: It is damaged, or this version cannot read such a trace.
    """
    text, is_checked, checksum = line.rstrip().rpartition(CHECKSUM)
    if is_checked and checksum != b"%d}" % zlib.crc32(text + b"}"):
        raise InvalidData("the checksum of its header is wrong")
    known = parse_json(line) if line.endswith(b"\n") else None
    if not isinstance(known, dict) or known.get("schema") != SCHEMA:
        raise InvalidData(f"its first line does not name {SCHEMA}")
    if isinstance(known.get("absent"), list):
        known["absent"] = [_with_hint(one) for one in known["absent"]]
    if isinstance(known.get("channels"), list):
        known["channels"] = [_with_contents(one) for one in known["channels"]]
    header = convert(known, TraceHeader)
    intervals_s = header.get("intervals_s")
    if intervals_s is not None and len(intervals_s) != len(header["channels"]):
        raise InvalidData("its header does not have one interval per channel")
    return header


def _with_hint(absence: Any) -> Any:
    """Give an absence of an earlier version, which has another key for the hint, today's."""
    old = "mend"  # codespell:ignore mend
    is_old = isinstance(absence, dict) and old in absence
    return {**absence, "hint": absence[old]} if is_old else absence


def _with_contents(channel: Any) -> Any:
    """Make a GPU's channel of an earlier version that read the whole superchip one of a module."""
    if not (isinstance(channel, dict) and channel.get("scope") == "module"):
        return channel
    number = str(channel.get("component")).partition(":")[2]
    contains = [f"{kind}:{number}" for kind in ("gpu", "cpu", "dram")]
    return {**channel, "component": f"module:{number}", "contains": contains}


def read_header(directory: Path) -> TraceHeader:
    """Read the header of a trace. Raise ``OSError`` or ``ValueError`` if there is none."""
    with open_regular(directory / READINGS_FILE) as file:
        return parse_header(read_header_line(file))


def read_header_line(file: BinaryIO) -> bytes:
    """Read the line of a trace's header from the beginning of its file."""
    return file.readline(LONGEST_HEADER_BYTES)


def parse_event(line: bytes) -> Mapping[str, Any]:
    """Decode a line of ``events.jsonl``. Of an unknown kind, only the time is checked.

    Raises:
        InvalidData: The line is damaged.
    """
    start = len(_EVENT)
    if line.startswith(_EVENT):
        decoder = _DECODERS.get(line[start : line.find(b'"', start)])
        # Python writes NaN among the attributes, which is not JSON.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if decoder is not None:
                found: Mapping[str, Any] = decoder.decode(line)
                return found
    event = convert(parse_json(line), dict[str, Any])
    kind = _EVENTS.get(str(event.get("event")))
    if kind is not None:
        return convert(event, kind)
    convert(event, _OtherEvent)
    return event
