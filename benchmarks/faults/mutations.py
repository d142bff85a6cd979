"""Ways to damage a file: bytes, lines, and the values of JSON. Each needs a random generator."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 10**400, 0.0, -0.0, -1.5, 1e-300,
    1e15, 1e300, float("nan"), float("inf"), float("-inf"), "", "x", "1", "\0", "=1+1", "é" * 300,
    "9999-12-31", [], {}, [None], [[1]], {"a": 1}, {"event": "stop"},
)  # fmt: skip
TEXTS = (
    "", "nan", "-nan", "inf", "-inf", "1e999", "-1e308", "1e15", "-5", "0", "1,250", "1.250,5",
    "9999-12-31", "0001-01-01T00:00+14:00", "2026-02-30", "99999999999999999999", "\0", "\x1b[31m",
    '"', "'", ";", "\t", "N/A", "[N/A]", "x" * 200_000, "é", "=1+1",
)  # fmt: skip
DEEP = 100_000


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 3, 20))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def cut_out(rng: random.Random, data: bytes) -> bytes:
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[last:]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    first, length = rng.randrange(len(data) + 1), rng.randrange(64)
    filler = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return data[:first] + filler + data[first + length :]


def move_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    for _ in range(rng.choice((1, 3))):
        at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
        if rng.random() < 0.5:
            lines[at], lines[to] = lines[to], lines[at]
        elif rng.random() < 0.5:
            lines.insert(to, lines[at])
        elif len(lines) > 1:
            del lines[at]
    return b"".join(lines)


def replace_cell(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    mark = next((mark for mark in (b",", b";", b"\t", b"=", b" ") if mark in lines[at]), b",")
    cells = lines[at].split(mark)
    cells[rng.randrange(len(cells))] = rng.choice(TEXTS).encode()
    lines[at] = mark.join(cells)
    return b"\n".join(lines)


def change_number(rng: random.Random, data: bytes) -> bytes:
    """Replace a digit by something that makes the number another one, or none."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if not digits:
        return data
    at = rng.choice(digits)
    return data[:at] + rng.choice((b"-", b"9" * 25, b"e9", b"e300", b".", b"")) + data[at + 1 :]


def replace_value(rng: random.Random, data: bytes) -> bytes:
    """Replace, remove or add values of JSON; in a file of lines, of one line."""
    lines = data.split(b"\n") if data.count(b"\n{") else [data]
    at = rng.randrange(len(lines))
    try:
        document = json.loads(lines[at])
    except ValueError:
        return flip_bits(rng, data)
    for _ in range(rng.choice((1, 1, 2))):
        _change(rng, document)
    lines[at] = json.dumps(document).encode()
    return b"\n".join(lines)


def _change(rng: random.Random, value: Any) -> None:
    places: list[tuple[Any, Any]] = []

    def visit(one: Any) -> None:
        keys = one if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            places.append((one, key))
            visit(one[key])

    visit(value)
    if not places:
        return
    around, key = rng.choice(places)
    if rng.random() < 0.15:
        del around[key]
    else:
        around[key] = deepcopy(rng.choice(STRANGE))  # A second change may be of it.


def nest(rng: random.Random, data: bytes) -> bytes:
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    inside = opening * DEEP + b"1" + closing * DEEP * (rng.random() < 0.7)
    at = data.rfind(b":", 0, rng.randrange(len(data) + 1)) + 1
    return rng.choice((inside, data[:at] + inside + data[at:]))


def invent(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(
        (
            b"", b"\n", b"\0" * 4096, b"{}", b"[]", b"null", b"5", b"\xff\xfe", b"\xef\xbb\xbf",
            rng.randbytes(rng.randrange(2000)), gzip.compress(data), b"\x1f\x8b", b"PK\3\4",
            data * 3, data.decode("latin-1").encode("utf-16"),
        )
    )  # fmt: skip


_BOMB = gzip.compress(bytes(1 << 28), 9)
"""256 MiB of zeros without a line end, in 256 KiB."""


def bomb(_: random.Random, __: bytes) -> bytes:
    return _BOMB


BYTES: tuple[Mutation, ...] = (flip_bits, truncate, cut_out, overwrite, move_lines, invent)
JSON: tuple[Mutation, ...] = (*BYTES, *[replace_value] * 6, change_number, change_number)
TABLES: tuple[Mutation, ...] = (*BYTES, *[replace_cell] * 4, change_number, change_number)
RARE: tuple[Mutation, ...] = (nest, bomb)
"""Slow ones, which are drawn for one input in a hundred."""
