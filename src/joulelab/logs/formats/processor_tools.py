"""Logs of ``turbostat``, ``perf stat -I``, ``powerstat`` and scaphandre: meters of the processor.

All read RAPL. A package contains its cores and its graphics (Intel SDM, volume 3B, 16.10), so these
are not added to it. The values of an interval are means (turbostat(8): "average power over the
sample period"), or its energy with ``--Joules`` and in perf (perf-stat(1), ``-I``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from joulelab.errors import UserError
from joulelab.logs.formats.json_text import json_objects
from joulelab.logs.formats.log_text import LogText
from joulelab.logs.formats.meters import Format, Reading, number
from joulelab.logs.series import Kind, Meter

_TURBOSTAT: dict[str, tuple[str, Kind, tuple[str, ...]]] = {
    "PkgWatt": ("cpu", Kind.MEAN_POWER, ()),
    "Pkg_J": ("cpu", Kind.AMOUNT, ("PkgWatt",)),
    "RAMWatt": ("dram", Kind.MEAN_POWER, ()),
    "RAM_J": ("dram", Kind.AMOUNT, ("RAMWatt",)),
}
_TURBOSTAT_TIME = "Time_Of_Day_Seconds"
_ELAPSED = re.compile(r"\s*(\d+\.\d+) sec\s*")
_PERF_EVENTS = {"pkg": "cpu", "ram": "dram", "psys": "node"}
_SOCKETS = ("", *(f" of socket {socket}" for socket in range(8)))
_PERF_TEXT = re.compile(
    r"\s*(?:(?P<time>\d+\.\d+)\s+)?(?:[SN](?P<socket>\d+(?:-D\d+)?)(?:-C\d+)?\s+\d+\s+)?"
    r"(?P<value>[\d.,]+|<not \w+>)\s+Joules\s+(?P<event>\S+)"
)
_PERF_ELAPSED = re.compile(r"\s*([\d.,]+)(?P<spread> \+- [\d.,]+)? seconds time elapsed")
_ANY_PERF = re.compile(r"(?:^|[\s,;|\"])(?:power/)?energy-(pkg|ram|psys|cores|gpu)/?")
_POWERSTAT = re.compile(r"\s*Time\s+User\s+Nice\s+Sys\s+Idle\s+IO\b.*\bWatts\b")
_HOST = re.compile(r"Host:\s+([\d.]+) W")


def _read_turbostat(log: LogText) -> Iterator[Reading]:
    """Read turbostat: each package's row, or else the row of the whole machine (``-``)."""
    elapsed_s = math.nan
    columns: list[str] = []
    has_time = any(_TURBOSTAT_TIME in line for line in log.head())
    lines = ((text, None) for text in log.raw_lines()) if has_time else log.lines()
    seen: set[tuple[str, str]] = set()
    packages: set[str] = set()
    short = 0
    for text, stamp in lines:
        cells = _turbostat_cells(text)
        if match := _ELAPSED.fullmatch(text):
            elapsed_s = float(match[1])
        elif any(name in cells for name in _TURBOSTAT):
            columns = cells
        elif columns and any(cells):
            row = dict(zip(columns, cells, strict=False))
            place = row.get("Package", "")
            is_summary = {row.get(name, "-") for name in ("Package", "Core", "CPU")} == {"-"}
            if len(cells) > len(columns) or not cells[0]:
                short += 1
                continue
            if (which := (place, row.get("CPU", ""))) in seen:
                # The next poll. Scripts may have removed the header above it.
                seen, packages = set(), set()
            seen.add(which)
            if not is_summary and (not place.isdigit() or place in packages):
                # Rows of cores repeat their package's power, or have none.
                continue
            packages.add(place)
            time = row.get(_TURBOSTAT_TIME) or stamp
            for name, meter in _turbostat_meters(row, "" if is_summary else place):
                watts = number(row[name])
                if time is None and math.isfinite(elapsed_s):
                    yield Reading(elapsed_s, meter, watts, elapsed_s)
                else:
                    yield Reading(time, meter, watts)
    log.skipped(short, "that are not rows of turbostat")


def _turbostat_cells(text: str) -> list[str]:
    """Split a row at tabs, or at commas or spaces into which scripts convert them."""
    delimiter = next((one for one in "\t," if one in text), None)
    return [cell.strip() for cell in text.split(delimiter)]


def _turbostat_meters(row: Mapping[str, str], package: str) -> Iterator[tuple[str, Meter]]:
    """Yield the columns and meters of a row: of a package, or of the machine if it is empty."""
    for name, (component, kind, overlaps) in _TURBOSTAT.items():
        if name not in row:
            continue
        source = f"turbostat.{name}"
        if package:
            label = f"{name} of package {package}"
            yield name, Meter(f"{component}:{package}", label, source, kind, overlaps)
        else:
            # It is the sum of the packages' rows, if there are any.
            parts = (*overlaps, f"{name} of package 0")
            yield name, Meter(f"{component}:0", name, source, kind, parts)


class _PerfRow(NamedTuple):
    time: str
    socket: str | None
    value: str
    event: str


def _read_perf(log: LogText) -> Iterator[Reading]:
    """Read ``perf stat -I MS -e power/energy-pkg/`` in its long form: for people, ``-x`` or ``-j``.

    Without ``-I``, the text for people has totals and their time.
    """
    delimiter = _perf_delimiter(log.head())
    totals: list[_PerfRow] = []
    has_intervals = False
    skipped = 0
    for text, _ in log.lines():
        length_s = math.nan
        rows: list[_PerfRow] = []
        if match := _PERF_ELAPSED.match(text):
            # Decimals of seconds show the mark of the user's language.
            mark, group = (",", ".") if match[1].rfind(",") > match[1].rfind(".") else (".", ",")
            length_s = number(match[1].replace(mark, "."))
            if match["spread"]:
                log.notes.append("energy and time are means of several runs")
            rows, totals = (
                [
                    one._replace(
                        time=str(length_s), value=one.value.replace(group, "").replace(mark, ".")
                    )
                    for one in totals
                ],
                [],
            )
        elif "Joules" in text and not text.lstrip().startswith("#"):
            row = _perf_row(text, delimiter)
            rows = [row] if row else []
            skipped += row is None
        for row in rows:
            meter = _perf_meter(row)
            if not row.time:
                # With --summary, they repeat the intervals.
                totals += [] if has_intervals else [row]
            elif meter is not None:
                has_intervals = has_intervals or not match
                yield Reading(number(row.time), meter, number(row.value), length_s)
    log.skipped(skipped, "that are not rows of perf stat -I")


def _perf_row(text: str, delimiter: str | None) -> _PerfRow | None:
    """Read a row, with decimal points and without time if it is a total."""
    if text.lstrip().startswith("{"):
        return _perf_object(text)
    if delimiter is not None:
        row = _perf_cells([cell.strip() for cell in text.split(delimiter)])
        if row is not None and delimiter == ";":
            row = row._replace(time=row.time.replace(",", "."), value=row.value.replace(",", "."))
        return row
    if match := _PERF_TEXT.match(text):
        time, socket, value, event = match.group("time", "socket", "value", "event")
        if time or not value.startswith("<"):
            return _PerfRow(time or "", socket, value.replace(",", "") if time else value, event)
    return None


def _perf_meter(row: _PerfRow) -> Meter | None:
    """Return the meter of an event; ``None`` for cores and graphics, which are in the package."""
    event = _ANY_PERF.search(row.event)
    if event is None or event[1] not in _PERF_EVENTS:
        return None
    label = f"energy-{event[1]}" + (f" of socket {row.socket}" if row.socket else "")
    # The platform contains the packages and their memory.
    overlaps = tuple(f"energy-pkg{which}" for which in _SOCKETS) if event[1] == "psys" else ()
    component = _PERF_EVENTS[event[1]]
    component = component if component == "node" else f"{component}:{row.socket or 0}"
    return Meter(component, label, f"perf.energy-{event[1]}", Kind.AMOUNT, overlaps)


def _perf_object(text: str) -> _PerfRow | None:
    try:
        found = json.loads(text)
        socket = str(found["socket"]).removeprefix("S") if "socket" in found else None
        return _PerfRow(str(found["interval"]), socket, found["counter-value"], found["event"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _perf_cells(cells: Sequence[str]) -> _PerfRow | None:
    """Split a row of ``-x``: time, optionally socket and its CPUs, value, unit, event."""
    if "Joules" not in cells:
        return None
    unit = cells.index("Joules")
    socket = re.fullmatch(r"[SN](\d+(?:-D\d+)?)", cells[1]) if unit == 4 else None
    if unit not in (2, 4) or (unit == 4 and not socket) or len(cells) < unit + 2:
        return None
    return _PerfRow(cells[0], socket and socket[1], cells[unit - 1], cells[unit + 1])


def _perf_delimiter(head: Sequence[str]) -> str | None:
    """Return what ``-x`` put between the cells; ``None`` for the form for people."""
    row = next((line for line in head if "Joules" in line and line.lstrip()[0] != "#"), "")
    match = re.search(r"(\S)Joules\1|\tJoules\t", row)
    return None if match is None else match[1] or "\t"


def _read_powerstat(log: LogText) -> Iterator[Reading]:
    """Read powerstat: of RAPL with ``-R``, of the battery otherwise."""
    columns: list[str] = []
    meters: dict[int, Meter] = {}
    of_battery = not any("start in 0 seconds" in line for line in log.head())
    for text in log.raw_lines():
        cells = text.split()
        if _POWERSTAT.match(text):
            columns, meters = cells, _powerstat_meters(cells, of_battery)
            if not meters:
                raise UserError(
                    f"{log.path}: 'Watts' adds up parts of the processor that contain each other",
                    hint="record them apart, with powerstat -R -D",
                )
        elif columns and cells and re.fullmatch(r"\d\d:\d\d:\d\d", cells[0]):
            whole = len(cells) >= len(columns)
            for i, meter in meters.items():
                yield Reading(cells[0], meter, number(cells[i]) if whole else math.nan)


def _powerstat_meters(columns: Sequence[str], of_battery: bool) -> dict[int, Meter]:
    """Return the meters to read by their columns.

    With ``-R``, ``Watts`` is the sum of all domains, although a package contains its cores, and
    ``psys`` contains both: in a log of 574,000 characters, each row is pkg-0 + core + psys
    (https://github.com/ionutbalosin/jvm-energy-consumption, baseline-idle-os).
    """
    watts = columns.index("Watts")
    if of_battery:
        return {watts: Meter("node", "Watts", "powerstat.watts", Kind.MEAN_POWER)}
    domains = {i: name for i, name in enumerate(columns) if i > watts}
    found = {i: f"cpu:{name[4:]}" for i, name in domains.items() if re.fullmatch(r"pkg-\d+", name)}
    found |= {i: "dram:0" for i, name in domains.items() if found and name == "dram"}
    found = found or {i: "node" for i, name in domains.items() if name == "psys"}
    return {
        i: Meter(component, domains[i], f"powerstat.{domains[i]}", Kind.MEAN_POWER)
        for i, component in found.items()
    }


def _read_scaphandre(log: LogText) -> Iterator[Reading]:
    """Read scaphandre's ``json`` exporter: sockets and memory, in microwatts."""
    for _, found in json_objects(log):
        host = found.get("host", {})
        names = []
        for socket in found.get("sockets", []):
            time, index = socket.get("timestamp", host.get("timestamp")), socket.get("id", 0)
            parts = [("socket", f"cpu:{index}", socket)]
            parts += [
                ("dram", f"dram:{index}", one)
                for one in socket.get("domains", [])
                if one.get("name") == "dram"
            ]
            for name, component, part in parts:
                names.append(name)
                meter = Meter(component, name, f"scaphandre.{name}", Kind.MEAN_POWER)
                yield Reading(str(time), meter, number(str(part.get("consumption"))) * 1e-6)
        if "consumption" in host:
            meter = Meter("node", "host", "scaphandre.host", Kind.MEAN_POWER, ("socket",))
            yield Reading(
                str(host.get("timestamp")), meter, number(str(host["consumption"])) * 1e-6
            )


def _read_scaphandre_text(log: LogText) -> Iterator[Reading]:
    """Read scaphandre's ``stdout`` exporter, which writes no times."""
    meter = Meter("node", "Host", "scaphandre.host", Kind.MEAN_POWER)
    for text, stamp in log.lines():
        if match := _HOST.match(text):
            yield Reading(stamp, meter, number(match[1]))


def _is_turbostat(head: Sequence[str]) -> bool:
    # With commas it is a script's: a table, unless it has turbostat's own times.
    return any(
        set(_TURBOSTAT) & set(cells) and ("," not in line or _TURBOSTAT_TIME in cells)
        for line in head
        for cells in [_turbostat_cells(line)]
    )


FORMATS = (
    Format(
        "turbostat",
        _is_turbostat,
        _read_turbostat,
        timed="turbostat --enable Time_Of_Day_Seconds",
    ),
    Format(
        "perf stat -I",
        lambda head: any("Joules" in line and _ANY_PERF.search(line) for line in head),
        _read_perf,
        timed="perf stat -a -I 1000 -x, -e power/energy-pkg/",
    ),
    Format(
        "powerstat",
        lambda head: any(_POWERSTAT.match(line) for line in head),
        _read_powerstat,
    ),
    Format(
        "scaphandre",
        lambda head: '"host"' in "".join(head) and '"consumption"' in "".join(head),
        _read_scaphandre,
    ),
    Format(
        "scaphandre stdout",
        lambda head: any(_HOST.match(line) for line in head),
        _read_scaphandre_text,
        timed="scaphandre json -f FILE",
    ),
)
