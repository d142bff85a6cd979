"""Logs of requests: own CSV and JSONL, and what vLLM, guidellm and aiperf write.

Formats of other tools are recognised by their content; see ``docs/how-to/energy-per-token.md``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from joulelab.errors import UserError
from joulelab.format import count, duration, finite_or_none
from joulelab.llm.request_formats import FORMATS, Row
from joulelab.llm.requests import TIMES, TOKENS, RequestLog
from joulelab.logs.cells import is_absent, number
from joulelab.logs.columns import TIME_UNITS, LogOptions, choose_values
from joulelab.logs.csv_table import open_table
from joulelab.logs.formats import find_format
from joulelab.logs.formats.log_text import LogText
from joulelab.logs.span_energies import column_positions
from joulelab.logs.timestamps import (
    EPOCH_S,
    dates,
    day_first,
    epoch_unit,
    may_be_smaller_unit,
    time_zone,
    to_time,
    usual_step,
)
from joulelab.storage import write_whole, writing
from joulelab.validation import InvalidData

REQUIRED = (*TIMES, *TOKENS)
"""Columns that a log of one's own must have. It may have ``request``, ``name`` and
``cached_tokens``."""
ROUNDING_S = 1e-3
"""Times of one request that two clocks measured may be out of order by this much."""
MOST_TOKENS = 1e9  # Of one request.
_HINT = (
    f"give CSV or JSONL with the columns {', '.join(REQUIRED)}, or JSON of vLLM's benchmark, "
    "guidellm or aiperf"
)
_NOT_SPACE = re.compile(r"\S")
_YAML = re.compile(r"(?:args|benchmarks|metadata):\s")


def read_requests(
    path: Path, *, timezone: str | None = None, renamed: Mapping[str, str] | None = None
) -> RequestLog:
    """Read a log of requests, plain or gzip, in any of the known formats.

    Args:
        path: The file.
        timezone: Time zone of dates without one. Default: this machine's.
        renamed: What to call columns of the file.

    Returns:
        The requests in order of their start. Times are as in the file; dates, and times since 1970
        in other units, are seconds since 1970.

    Raises:
        UserError: The file cannot be read, is none of requests, or has a value that cannot be.
    """
    head = "\n".join(LogText(path, LogOptions()).head()).lstrip()
    notes: list[str] = []
    if _YAML.match(head):
        raise UserError(f"{path} is YAML", hint="give guidellm's report as JSON")
    if head[:1] in ("{", "["):
        rows = _rows_of_json(path, timezone, renamed or {}, notes)
    else:
        rows = _rows_of_csv(path, timezone, renamed or {}, notes)
    return _checked(path, rows, notes)


def write_requests(path: Path, requests: RequestLog, **labels: Sequence[str]) -> None:
    """Write a log of requests as JSONL that :func:`read_requests` reads, whole or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    columns: dict[str, Sequence[Any]] = {"request": requests.request}
    columns |= {name: finite_or_none(getattr(requests, name).tolist()) for name in TIMES}
    for name in (*TOKENS, "cached_tokens"):
        columns[name] = getattr(requests, name).astype(int).tolist()
    columns |= labels
    rows = zip(*columns.values(), strict=True)
    lines = (json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    with writing(path):
        write_whole(path, "".join(lines).encode())


def _rows_of_csv(
    path: Path, timezone: str | None, renamed: Mapping[str, str], notes: list[str]
) -> Iterator[Row]:
    table = open_table(path)
    if not table.header:
        raise UserError(f"{path} has no line with names of columns", hint=_HINT)
    return _own_rows(path, table.names, list(table.rows()), timezone, renamed, notes)


def _rows_of_json(
    path: Path, timezone: str | None, renamed: Mapping[str, str], notes: list[str]
) -> Iterator[Row]:
    objects = _json_objects(path, notes)
    found = next((one for one in FORMATS if objects and one.matches(objects[0])), None)
    if found is None:
        names = list(dict.fromkeys(name for one in objects for name in one))
        cells = [[_text_of(one.get(name)) for name in names] for one in objects]
        return _own_rows(path, names, cells, timezone, renamed, notes)
    if renamed:
        raise UserError(f"{path} is a log of {found.name}, which has no columns to rename")
    try:
        return iter(list(found.rows(objects, notes)))
    except InvalidData as error:
        raise UserError(f"{path} is not a log of {found.name} as known", why=str(error)) from error
    except UserError as error:
        raise UserError(f"{path}: {error.what}", why=error.why, hint=error.hint) from error


def _json_objects(path: Path, notes: list[str]) -> list[Mapping[str, Any]]:
    """Read all objects of a file: one, several after another or on lines, or a list of them."""
    text, decoder = LogText(path, LogOptions()).text(), json.JSONDecoder()
    found: list[Any] = []
    position = 0
    while start := _NOT_SPACE.search(text, position):
        position = start.start()
        try:
            one, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            if found and text.find("\n", position) < 0:
                notes.append("skipped the last line, which is cut short")
                break
            line = text.count("\n", 0, position) + 1
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise UserError(f"{path} is damaged from line {line} on", why=why) from error
        found += one if isinstance(one, list) else [one]
    if not all(isinstance(one, dict) for one in found):
        raise UserError(f"{path} is no log of requests: its JSON is not of objects", hint=_HINT)
    return found


def _text_of(value: Any) -> str:
    """Return a value of JSON as the cell of a table."""
    return "" if value is None else value if isinstance(value, str) else repr(value)


def _own_rows(
    path: Path,
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    timezone: str | None,
    renamed: Mapping[str, str],
    notes: list[str],
) -> Iterator[Row]:
    """Iterate over the rows of a table that has :data:`REQUIRED`."""
    at = column_positions(path, names, renamed)
    missing = [name for name in REQUIRED if name not in at]
    if missing:
        if len(missing) == len(REQUIRED) and _is_power_log(path):
            raise UserError(
                f"{path} is a log of power, not of requests", hint="give it with --power"
            )
        raise UserError(
            f"{path} has no column {', '.join(map(repr, missing))}",
            why=f"its columns are {', '.join(names)}" if names else "it is empty",
            hint=f"{_HINT}, or name the columns with --rename",
        )
    short = next((i for i, row in enumerate(rows, 1) if len(row) < len(names)), None)
    if short is not None:
        raise UserError(f"{path}, row {short} has fewer columns than the header")
    cells = {name: [row[i].strip() for row in rows] for name, i in at.items()}
    parse_dates = dates(
        time_zone(timezone), day_first([cell for name in TIMES for cell in cells[name]], path)
    )
    times = {name: [to_time(cell, parse_dates) for cell in cells[name]] for name in TIMES}
    unit = _unit_of_times(path, times) if rows else "s"
    if unit != "s":
        notes.append(f"the times of the requests are read as {unit} since 1970")
    labels = cells.get("request") or _distinct(cells.get("name", []))
    for i in range(len(rows)):
        start_s, first_s, stop_s = (
            _value(path, i, name, cells[name][i], times[name][i]) * TIME_UNITS[unit]
            for name in TIMES
        )
        inputs, outputs = (
            _value(path, i, name, cells[name][i], number(cells[name][i])) for name in TOKENS
        )
        cached = number(cells["cached_tokens"][i]) if "cached_tokens" in cells else math.nan
        label = labels[i] if labels and labels[i] else str(i + 1)
        yield Row(f"row {i + 1}", label, start_s, first_s, stop_s, inputs, outputs, cached)


def _unit_of_times(path: Path, times: Mapping[str, Sequence[float]]) -> str:
    """Return the unit of times since 1970; seconds if they are on another clock.

    Raises:
        UserError: They may be of a smaller unit on another clock, as those of a power log may be.
    """
    unit = epoch_unit(np.array(times["start_s"]))
    if unit is None:
        return "s"
    values = np.sort(np.concatenate([np.asarray(times[name]) for name in TIMES]))
    step = usual_step(values[np.isfinite(values)])
    if may_be_smaller_unit(step * TIME_UNITS[unit]):
        raise UserError(
            f"{path}: the unit of its times is unknown",
            why=f"as {unit} since 1970 its requests start, or stop, "
            f"{duration(step * TIME_UNITS[unit])} apart",
            hint="write all times in seconds, of any clock",
        )
    return unit


def _value(path: Path, row: int, name: str, cell: str, value: float) -> float:
    """Return a value of a cell; only the time of a first token may be absent."""
    if math.isfinite(value) or (name == "first_token_s" and is_absent(cell)):
        return value
    problem = "is empty" if is_absent(cell) else f"is {cell[:60]!r}, which is no number"
    raise UserError(f"{path}, row {row + 1}: {name} {problem}")


def _distinct(names: Sequence[str]) -> Sequence[str]:
    """Return names that identify requests; none if they are of groups."""
    return names if len(set(names)) == len(names) else []


def _is_power_log(path: Path) -> bool:
    try:
        return find_format(path) is not None or bool(choose_values(open_table(path), LogOptions()))
    except UserError:
        return False


def _checked(path: Path, rows: Iterator[Row], notes: list[str]) -> RequestLog:
    """Sort requests by their start, and raise an error if one of them cannot be."""
    given = list(rows)
    if not given:
        raise UserError(f"{path} has no requests", why="; ".join(notes), hint=_HINT)
    where, names = [one.where for one in given], [one.request for one in given]
    start_s, first_s, stop_s, inputs, outputs, cached = np.array(
        [one[2:] for one in given], dtype=np.float64
    ).T
    cached = np.nan_to_num(cached, nan=0.0)

    def refuse(wrong: Any, problem: str, *values: Any) -> None:
        """Raise an error that names the first request for which something is wrong."""
        found = np.flatnonzero(wrong)
        if found.size:
            i = int(found[0])
            shown = " and ".join(f"{one[i]:.15g}" for one in values)
            raise UserError(f"{path}, {where[i]}: {problem}", why=f"found {shown}")

    if epoch_unit(start_s) == "s":
        refuse(
            (start_s < EPOCH_S[0]) | (start_s >= EPOCH_S[1]),
            "the request starts at no time since 1970, as others do",
            start_s,
        )
    with np.errstate(invalid="ignore"):
        refuse(stop_s < start_s, "the request stops before it starts", start_s, stop_s)
        early = first_s < start_s - ROUNDING_S
        refuse(early, "the first token comes before the request starts", start_s, first_s)
        late = first_s > stop_s + ROUNDING_S
        refuse(late, "the first token comes after the request stops", first_s, stop_s)
        for tokens, what in ((inputs, "input"), (outputs, "output"), (cached, "cached")):
            wrong = ~((tokens >= 0) & (tokens <= MOST_TOKENS) & (np.rint(tokens) == tokens))
            refuse(wrong, f"the {what} tokens are no count", tokens)
        refuse(cached > inputs, "more tokens are cached than the prompt has", cached, inputs)
    _refuse_duplicates(path, where, names)
    order = np.argsort(start_s, kind="stable")
    unknown = int(np.count_nonzero(np.isnan(first_s) & (outputs > 0)))
    if unknown:
        notes.append(
            f"when the first token came is unknown for {count(unknown, 'request')}: benchmark "
            "with streaming to separate prefill and decode"
        )
    return RequestLog(
        request=tuple(names[i] for i in order),
        start_s=start_s[order],
        first_token_s=np.clip(first_s, start_s, stop_s)[order],
        stop_s=stop_s[order],
        input_tokens=inputs[order],
        output_tokens=outputs[order],
        cached_tokens=cached[order],
        notes=tuple(notes),
    )


def _refuse_duplicates(path: Path, where: Sequence[str], names: Sequence[str]) -> None:
    """Raise an error if two requests have one name: one of them would be counted twice."""
    seen: dict[str, str] = {}
    for place, name in zip(where, names, strict=True):
        if name in seen:
            raise UserError(
                f"{path}: request {name!r} is there twice",
                why=f"in {seen[name]} and {place}",
                hint="remove one, or give each its own name",
            )
        seen[name] = place
