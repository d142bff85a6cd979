"""Logs of ``nvidia-smi`` other than its CSV: ``dmon``, ``-q -d POWER`` and the plain table.

Power is that of the board. ``pwr`` and ``Power Draw`` are ``nvmlDeviceGetPowerUsage``, which may be
an average over 1 s (nvidia-smi(1) and the NVML API reference).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from joulelab.errors import UserError
from joulelab.logs.formats.log_text import LogText
from joulelab.logs.formats.meters import Format, Reading, number
from joulelab.logs.series import Meter

_DMON = re.compile(
    r"#\s*(?:Date[,\s]+)?(?:Time[,\s]+)?gpu[,\s]+(?:pwr|g?temp|sm|mem|mclk|pviol|fb|sbecc|rxpci)\b"
)
_PMON = re.compile(r"#\s*(?:Date[,\s]+)?(?:Time[,\s]+)?gpu[,\s]+pid\b")
_TABLE_GPU = re.compile(r"\|\s+(\d+)\s+\S.*\|")
_TABLE_POWER = re.compile(r"([\d.]+|N/A|ERR!|\[?Unknown[^/|]*)W?\s*/\s*(?:[\d.]+W|N/A|ERR!|\[?Unk)")
_GPUSTAT_DATE = re.compile(r"\b[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \d{4}\b")
_GPUSTAT_ROW = re.compile(r"\[(\d+)\] .*\|.*?(\d+|\?\?) / +\d+ W\b")
_QUERY_SECTIONS = ("Power Readings", "GPU Power Readings")
_QUERY_POWER = {
    "Instantaneous Power Draw": ("nvml.power_instant", ()),
    "Average Power Draw": ("nvml.power_average", ("Instantaneous Power Draw",)),
    "Power Draw": ("nvml.power_usage", ("Instantaneous Power Draw", "Average Power Draw")),
}
_XML_TAG = re.compile(r'\s*<(\w+)(?: id="([^"]*)")?>(?:(.*)</\1>)?')
_XML_NAMES = {
    "timestamp": "Timestamp",
    "power_readings": "Power Readings",
    "gpu_power_readings": "GPU Power Readings",
    "instant_power_draw": "Instantaneous Power Draw",
    "average_power_draw": "Average Power Draw",
    "power_draw": "Power Draw",
}


def _read_dmon(log: LogText) -> Iterator[Reading]:
    """Read ``nvidia-smi dmon``: its columns follow ``#`` and are repeated now and then."""
    columns: list[str] = []
    short = 0
    for text, stamp in log.lines():
        cells = text.replace(",", " ").split()
        if text.lstrip().startswith("#"):
            if _PMON.search(text):
                # Rows of processes follow.
                columns = []
            elif _DMON.search(text):
                columns = [cell.lower() for cell in text.lstrip("# ").replace(",", " ").split()]
                if "pwr" not in columns:
                    raise UserError(
                        f"{log.path} has no power: nvidia-smi dmon was run without it",
                        hint="record it with nvidia-smi dmon -s p -o DT",
                    )
            continue
        if columns[:1] == ["time"] and stamp:
            cells.insert(0, stamp)
        if len(cells) < len(columns):
            short += bool(cells)
            continue
        row = dict(zip(columns, cells, strict=False))
        if not row.get("gpu", "").isdigit():
            short += 1
            continue
        time = row.get("time")
        if time and "date" in row:
            date = row["date"].replace("/", "")
            time = f"{date[:4]}-{date[4:6]}-{date[6:]}T{time}"
        meter = Meter(f"gpu:{row['gpu']}", "pwr", "nvml.power_usage")
        yield Reading(time or stamp, meter, number(row["pwr"]))
    log.skipped(short, "that are not rows of dmon")


def _refuse_pmon(log: LogText) -> Iterator[Reading]:
    """Refuse ``nvidia-smi pmon``, which lists processes."""
    raise UserError(
        f"{log.path} has no power",
        why="nvidia-smi pmon only lists processes",
        hint="record power with nvidia-smi dmon -s p -o DT",
    )


def _read_table(log: LogText) -> Iterator[Reading]:
    """Read the tables that plain ``nvidia-smi`` prints, each after a line with its date."""
    gpu: str | None = None
    for text, stamp in log.lines():
        if match := _TABLE_POWER.search(text):
            if gpu is not None:
                meter = Meter(f"gpu:{gpu}", "Pwr:Usage", "nvml.power_usage")
                yield Reading(stamp, meter, number(match[1]))
            gpu = None
        elif match := _TABLE_GPU.match(text):
            gpu = match[1]


def _read_query(log: LogText) -> Iterator[Reading]:
    """Read ``nvidia-smi -q -d POWER`` or ``-x``; GPUs are numbered in the order of the log."""
    time: str | None = None
    gpus: dict[str, int] = {}
    gpu = section = ""
    for line, stamp in log.lines():
        text = _XML_TAG.sub(_xml_as_text, line)
        key, colon, value = (part.strip() for part in text.partition(" : "))
        if text.startswith("GPU "):
            gpu = text.split()[1]
            gpus.setdefault(gpu, len(gpus))
        elif key == "Timestamp":
            time = value
        elif not colon:
            section = key or section
        elif gpu and section in _QUERY_SECTIONS and key in _QUERY_POWER:
            source, overlaps = _QUERY_POWER[key]
            meter = Meter(f"gpu:{gpus[gpu]}", key, source, overlaps=overlaps, uuid=gpu)
            watts = number(value.removesuffix("W")) if value.endswith("W") else math.nan
            yield Reading(time or stamp, meter, watts)


def _xml_as_text(element: re.Match[str]) -> str:
    """Write an element of ``-x`` as ``-q`` writes it without."""
    tag, gpu, value = element.groups()
    name = _XML_NAMES.get(tag, tag)
    return f"GPU {gpu}" if gpu else f"    {name}" + (f" : {value}" if value else "")


def _read_gpustat(log: LogText) -> Iterator[Reading]:
    """Read ``gpustat --show-power``, which prints nvidia-smi's power below a line with the date."""
    time: str | None = None
    for text, stamp in log.lines():
        if date := _GPUSTAT_DATE.search(text):
            time = date[0]
        if match := _GPUSTAT_ROW.match(text):
            meter = Meter(f"gpu:{match[1]}", "power", "nvml.power_usage")
            yield Reading(time or stamp, meter, number(match[2]))


def _any(pattern: re.Pattern[str], head: Sequence[str]) -> bool:
    return any(pattern.search(line) for line in head)


FORMATS = (
    Format(
        "nvidia-smi pmon",
        lambda head: _any(_PMON, head),
        _refuse_pmon,
    ),
    Format(
        "nvidia-smi dmon",
        lambda head: _any(_DMON, head),
        _read_dmon,
        timed="nvidia-smi dmon -s p -o DT",
    ),
    Format(
        "nvidia-smi -q",
        lambda head: any("=NVSMI LOG=" in line or "<nvidia_smi_log>" in line for line in head),
        _read_query,
        timed="nvidia-smi -q -d POWER -l 1",
    ),
    Format(
        "nvidia-smi",
        lambda head: any("| NVIDIA-SMI " in line for line in head),
        _read_table,
        timed="nvidia-smi -l 1",
    ),
    Format(
        "gpustat",
        lambda head: any(_GPUSTAT_ROW.match(line) for line in head),
        _read_gpustat,
        timed="gpustat --show-power -i 1",
    ),
)
