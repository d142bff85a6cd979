"""Events of a program as lines of JSON for the trace, each whole in one write to a pipe."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from joulelab.recording.link import ATOMIC_WRITE_BYTES

ROWS_A_LINE = 24

encode = json.JSONEncoder(default=str, separators=(",", ":")).encode


def lines(kind: str, rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """Lines for the trace, none longer than one write to a pipe that stays whole (pipe(7)).

    Rows are encoded many at a time: that is one call which holds the interpreter for a moment,
    where a call for each would keep taking it from the program's own threads.
    """
    done: list[bytes] = []
    for first in range(0, len(rows), ROWS_A_LINE):
        some = rows[first : first + ROWS_A_LINE]
        line = _line(kind, some)
        if line is not None:
            done.append(line)
        elif len(some) > 1:
            half = len(some) // 2
            done += lines(kind, some[:half]) + lines(kind, some[half:])
        else:
            # The span itself keeps what the trace cannot.
            index, parent, thread, name, _, *times = some[0]
            known = name[:256] if isinstance(name, str) else "?"
            short = (index, parent, thread, known, {"attributes_omitted": True}, *times)
            done += lines(kind, [short])
    return done


def _line(kind: str, rows: Sequence[tuple[Any, ...]]) -> bytes | None:
    """The line; nothing where it is too long, or what the program gave cannot be written."""
    try:
        line = encode({"event": kind, "pid": os.getpid(), "rows": rows}).encode() + b"\n"
    except Exception:  # noqa: BLE001  (attributes are anyone's objects, and may change meanwhile)
        return None
    return line if len(line) <= ATOMIC_WRITE_BYTES else None
