"""Many finished spans as columns: in memory, and as one line of a trace.

A span as an object takes half a kilobyte, and as a row of JSON a hundred bytes and several µs. A
program that has a million of them a day can afford neither, so spans whose attributes have the same
names share one block of columns.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from joulelab.recording.trace_format import SPAN_COLUMNS, encode
from joulelab.validation import MOST_NS, InvalidData

NONE = np.iinfo(np.int64).min
"""The parent of an outermost span, and the stop of an open one."""
COLUMNS = ("name", "index", "parent", "thread", "start_ns", "stop_ns")
"""Columns of a block's line. ``name`` is a position in the list of names."""
SPAN = np.dtype(
    [
        ("pid", "<i4"),
        ("name", "<i4"),
        *((name, "<i8") for name in COLUMNS[1:]),
        ("block", "<i4"),  # Where the span's attributes are.
        ("row", "<i4"),
    ]
)
PLAIN = frozenset({int, float, str, bool, type(None)})
"""Types that JSON restores exactly."""
LONGEST_TEXT = 256
"""A block with a longer text than this has no line: its spans are written as rows."""

Row = tuple[Any, ...]
"""Index, parent, thread, name, attributes, start and stop; see ``trace_format.py``."""
Column = Sequence[Any] | NDArray[Any]


class Attributes(NamedTuple):
    """The attributes of a block's spans, which all have the same names."""

    names: tuple[str, ...]
    columns: tuple[Column, ...]

    def of(self, row: int) -> dict[str, Any]:
        """Return the attributes of one span."""
        return {
            name: column[row].item() if isinstance(column, np.ndarray) else column[row]
            for name, column in zip(self.names, self.columns, strict=True)
        }


class Block(NamedTuple):
    """Finished spans whose attributes have the same names. Shape: (spans,)."""

    names: list[str]  # Of the spans, in the order of their codes.
    spans: NDArray[np.void]  # See :data:`SPAN`.
    attributes: Attributes

    @classmethod
    def of(cls, pids: int | Sequence[int], rows: Sequence[Row]) -> Block:
        """Make a block of rows, at least one.

        Raises:
            ValueError: The rows have different attributes.
            TypeError, OverflowError: A number is of a wrong type or too large.
        """
        return cls.of_columns(pids, *zip(*rows, strict=True))

    @classmethod
    def of_columns(
        cls,
        pids: int | Sequence[int],
        index: Sequence[int],
        parent: Sequence[int | None],
        thread: Sequence[int | None],
        name: Sequence[str],
        attributes: Sequence[Mapping[str, Any]],
        start_ns: Sequence[int],
        stop_ns: Sequence[int | None],
    ) -> Block:
        """Make a block of the columns of rows; see :meth:`of`."""
        spans = np.empty(len(index), SPAN)
        codes: dict[str, int] = {}
        spans["pid"] = pids
        spans["name"] = [codes.setdefault(one, len(codes)) for one in name]
        spans["index"] = index
        spans["parent"] = [NONE if one is None else one for one in parent]
        spans["thread"] = [one or 0 for one in thread]
        spans["start_ns"] = start_ns
        spans["stop_ns"] = stop_ns
        spans["block"] = 0
        spans["row"] = np.arange(len(spans))
        names = tuple(attributes[0])
        try:
            columns = [list(map(itemgetter(one), attributes)) for one in names]
        except KeyError as error:
            raise ValueError(f"not every span has the attribute {error}") from error
        if any(len(one) != len(names) for one in attributes):
            raise ValueError("the spans have different attributes")
        return cls(list(codes), spans, Attributes(names, tuple(map(_compact, columns))))

    def line(self) -> bytes | None:
        """Encode the block, whose spans are of one process, as a line for the trace.

        Returns:
            ``None`` if JSON would not restore it exactly, or if it has a long text.
        """
        if not all(map(_can_pack, (self.names, *self.attributes.columns))):
            return None
        event = {
            "event": SPAN_COLUMNS,
            "pid": int(self.spans["pid"][0]),
            "names": self.names,
            "columns": {name: _pack(self.spans[name]) for name in COLUMNS},
            "attributes": dict(
                zip(self.attributes.names, map(_pack, self.attributes.columns), strict=True)
            ),
        }
        try:
            return encode(event).encode() + b"\n"
        except ValueError:  # An integer has too many digits (sys.set_int_max_str_digits).
            return None

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> Block:
        """Decode a line.

        Raises:
            InvalidData: It is damaged.
        """
        try:
            columns = {name: _unpack(event["columns"][name]) for name in COLUMNS}
            spans = np.empty(columns["start_ns"].size, SPAN)
            spans["pid"] = event["pid"]
            values = tuple(
                _unpack(one) if isinstance(one, dict) else _compact(one)
                for one in event["attributes"].values()
            )
        except (LookupError, ValueError, OverflowError) as error:
            raise InvalidData(f"its columns are damaged: {error}") from error
        for name, column in columns.items():
            most = len(event["names"]) - 1 if name == "name" else MOST_NS
            known = column[column != NONE] if name == "parent" else column
            # A column of a wrong length or type must not be spread or rounded.
            is_whole = column.shape == spans.shape and column.dtype == np.int64
            if not is_whole or (known.size and not 0 <= known.min() <= known.max() <= most):
                raise InvalidData(f"its column {name!r} is damaged")
            spans[name] = column
        if any(len(one) != spans.size for one in values):
            raise InvalidData("it has too few values of an attribute")
        spans["block"], spans["row"] = 0, np.arange(spans.size)
        return cls(event["names"], spans, Attributes(tuple(event["attributes"]), values))

    def rows(self) -> list[Row]:
        """Return the spans as rows."""
        columns = [self.spans[name].tolist() for name in COLUMNS[1:]]
        names = [self.names[code] for code in self.spans["name"].tolist()]
        return [
            (
                index,
                None if parent == NONE else parent,
                thread,
                name,
                self.attributes.of(row),
                start_ns,
                stop_ns,
            )
            for row, (name, index, parent, thread, start_ns, stop_ns) in enumerate(
                zip(names, *columns, strict=True)
            )
        ]


_ARRAYS: Mapping[type, Callable[[Any], NDArray[Any]]] = {
    int: lambda values: np.array(values, np.int64),
    float: lambda values: np.array(values, np.float64),
}


def _compact(values: Sequence[Any]) -> Column:
    """Store values of one type as an array, and share equal texts."""
    types = set(map(type, values))
    if len(types) == 1:
        (kind,) = types
        try:
            if kind in _ARRAYS:
                return _ARRAYS[kind](values)
        except OverflowError:  # Python's integers have no limit.
            return list(values)
        if kind is str:
            known: dict[str, str] = {}
            return [known.setdefault(value, value) for value in values]
    return list(values)


def _can_pack(column: Column) -> bool:
    if isinstance(column, np.ndarray):
        return True
    texts = (one for one in column if type(one) is str)
    return PLAIN.issuperset(map(type, column)) and max(map(len, texts), default=0) <= LONGEST_TEXT


def _pack(column: Column) -> Any:
    """Encode a column for JSON: numbers as little-endian bytes in Base64."""
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype == np.float64:
        return {"type": "f8", "data": base64.b64encode(column.astype("<f8").tobytes()).decode()}
    # A missing value would make all others take eight bytes, so it is 0 and they are at least 1.
    known = column[column != NONE]
    after = int(known.min()) - 1 if known.size else 0
    above = np.where(column == NONE, np.uint64(0), column.astype(np.uint64) - _unsigned(after))
    kind = np.min_scalar_type(int(above.max(initial=0)))
    data = base64.b64encode(above.astype(kind.newbyteorder("<")).tobytes()).decode()
    return {"type": kind.str[1:], "after": after, "data": data}


def _unpack(packed: Mapping[str, Any]) -> NDArray[Any]:
    """Decode a column of numbers."""
    data = base64.b64decode(packed["data"], validate=True)
    if packed["type"] == "f8":
        return np.frombuffer(data, "<f8")
    above = np.frombuffer(data, f"<{packed['type']}").astype(np.uint64)
    after = _unsigned(packed["after"])
    return np.where(above == 0, NONE, (above + after).view(np.int64))


def _unsigned(value: int) -> np.uint64:
    """Convert to two's complement, which holds differences of any two 64-bit integers."""
    return np.uint64(value % (1 << 64))
