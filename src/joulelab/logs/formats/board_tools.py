"""Logs of whole boards: tegrastats, powermetrics, ipmitool and MLPerf's power meters.

Rails of Jetson boards: ``VDD_IN`` and ``POM_5V_IN`` are the input of the module, and ``VIN`` that
of the board, and contain the other rails; boards without them draw the sum of their rails (NVIDIA's
developer forum, topics 73608, 200883 and 366461; jetson-stats, ``jtop.power``). Each is
``now/average since the start`` in mW.
powermetrics(1) gives the mean over the stated interval; "Combined Power" is CPU, GPU and ANE.
"""

from __future__ import annotations

import math
import plistlib
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.parsers.expat import ExpatError

from joulelab.logs.formats.json_text import mllog_events
from joulelab.logs.formats.log_text import LogText
from joulelab.logs.formats.meters import Format, Reading, number
from joulelab.logs.series import Kind, Meter
from joulelab.sensors.sensor import Provenance

_TEGRA_DATE = re.compile(r"(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d)\s")
_TEGRA_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)(?:mW(?:/\d+mW)?|/\d+)(?=\s|$)")
_TEGRA_INPUTS = ("VDD_IN", "POM_5V_IN", "VIN")
_TEGRA_LINE = re.compile(r"\bRAM \d+/\d+MB\b")

_APPLE_SAMPLE = re.compile(r"\*+ Sampled system activity \((.*)\) \(([\d.]+)ms elapsed\)")
_APPLE_POWER = re.compile(r"(CPU|GPU|ANE|DRAM|Package|Combined)[^:]* Power[^:]*:\s*([\d.]+) ?(m?W)")
_INTEL_POWER = re.compile(r"Intel energy model derived package power .*?:\s*([\d.]+) ?W")
_APPLE_COMPONENTS = {
    "CPU": "cpu:0", "GPU": "gpu:0", "ANE": "ane:0", "DRAM": "dram:0", "Package": "node",
    "Combined": "node",
}  # fmt: skip
_APPLE_PARTS = ("CPU", "GPU", "ANE", "DRAM")

# What plistlib raises for damaged documents.
_NO_PLIST = (
    plistlib.InvalidFileException, ExpatError, ValueError, LookupError, AttributeError, TypeError,
)  # fmt: skip

_DCMI = re.compile(r"\s*Instantaneous power reading:\s*(\S+)\s*Watts")
_DCMI_TIME = re.compile(r"\s*IPMI timestamp:\s*(.*?)(?:\s+Sampling period.*)?\s*")
_DCMI_STATE = re.compile(r"\s*Power reading state is:\s*(\w+)")
_SENSOR = re.compile(
    # ``sdr elist`` and ``sdr type`` write number, state and entity before the value.
    r"\s*([^|,]+?)\s*(?:\|(?: *[0-9A-F]+h *\| *\w+ *\| *[\d.]+ *\|)?"
    r"\s*([\d.]+|na|no reading)\s*\|?|,\s*([\d.]+|na|no reading)\s*,)\s*Watts\b",
    re.IGNORECASE,
)
_NODE_SENSOR = re.compile(
    r"(?:pwr|power|system|sys|total|node)[ _]*(?:consumption|level|power|pwr|meter|input)?[ _\d]*",
    re.IGNORECASE,
)
_TOTAL_SENSOR = re.compile(r"(?!.*(?:cpu|gpu|mem|dimm|fan|hdd|disk)).*total", re.IGNORECASE)
_SUPPLY_SENSOR = re.compile(
    r"(?!.*out)(?:ps|psu|power supply)[ _]*(\d+).*(?:in|input|power|pwr)", re.IGNORECASE
)

_MLPERF_METER = re.compile(r"Time,\d\d-\d\d-\d{4} [\d:.]+,Watts,")


def _read_tegrastats(log: LogText) -> Iterator[Reading]:
    """Read tegrastats: the module's input where it is metered, or else its rails."""
    for text, stamp in log.lines():
        date = _TEGRA_DATE.search(text)
        for name, now in _TEGRA_RAIL.findall(text):
            if name == "NC":
                # Not connected.
                continue
            is_input = name in _TEGRA_INPUTS
            overlaps = () if is_input else _TEGRA_INPUTS
            component = "node" if is_input else f"rail:{name}"
            meter = Meter(component, name, f"tegrastats.{name}", overlaps=overlaps)
            yield Reading(date[1] if date else stamp, meter, number(now) * 1e-3)


def _read_powermetrics(log: LogText) -> Iterator[Reading]:
    """Read the text of powermetrics: CPU, GPU and ANE, or the package of older versions."""
    time, length_s = None, math.nan
    seen: set[str] = set()
    for text in log.raw_lines():
        if match := _APPLE_SAMPLE.search(text):
            time, length_s = match[1], number(match[2]) / 1e3
            seen.clear()
        elif match := _INTEL_POWER.search(text):
            meter = Meter("cpu:0", "package power", "powermetrics.package", Kind.MEAN_POWER)
            yield Reading(time, meter, number(match[1]), length_s)
        elif (match := _APPLE_POWER.match(text)) and match[1] not in seen:
            # The section of the GPU repeats its power.
            seen.add(match[1])
            factor = 1e-3 if match[3] == "mW" else 1.0
            yield Reading(time, _apple_meter(match[1]), number(match[2]) * factor, length_s)


def _apple_meter(name: str) -> Meter:
    overlaps = _APPLE_PARTS if name in ("Package", "Combined") else ()
    source = f"powermetrics.{name.lower()}"
    component = _APPLE_COMPONENTS[name]
    return Meter(
        component, name, source, Kind.MEAN_POWER, overlaps, provenance=Provenance.ESTIMATED
    )


def _read_powermetrics_plist(log: LogText) -> Iterator[Reading]:
    """Read ``powermetrics -f plist``: property lists with NUL characters between them."""
    damaged = 0
    for document in log.text().split("\0"):
        if not document.strip():
            continue
        try:
            found: dict[str, Any] = plistlib.loads(document.strip().encode())
        except _NO_PLIST:
            damaged += 1
            continue
        length_s = float(found["elapsed_ns"]) * 1e-9
        time = found["timestamp"].isoformat() + "Z"
        processor = found.get("processor", {})
        for name in ("CPU", "GPU", "ANE", "DRAM", "Package", "Combined"):
            milliwatts = processor.get(f"{name.lower()}_power")
            if milliwatts is not None:
                yield Reading(time, _apple_meter(name), float(milliwatts) * 1e-3, length_s)
        if "package_joules" in processor:
            meter = Meter("cpu:0", "package_joules", "powermetrics.package", Kind.AMOUNT)
            yield Reading(time, meter, float(processor["package_joules"]), length_s)
    if damaged:
        log.notes.append("skipped samples that are damaged or cut short")


def _read_ipmi_power(log: LogText) -> Iterator[Reading]:
    """Read ``ipmitool dcmi power reading``: power now, by the management controller's clock."""
    meter = Meter("node", "Instantaneous power reading", "ipmi.dcmi")
    watts = math.nan
    own: str | None = None
    stamp: str | None = None
    pending = False
    for text, before in log.lines():
        if match := _DCMI.match(text):
            if pending:
                yield Reading(stamp or own, meter, watts)
            watts, own, stamp, pending = number(match[1]), None, before, True
        elif match := _DCMI_TIME.fullmatch(text):
            own = None if "1970" in match[1] else match[1]
        elif (match := _DCMI_STATE.match(text)) and match[1] != "activated":
            watts = math.nan
    if pending:
        yield Reading(stamp or own, meter, watts)


def _read_ipmi_sensors(log: LogText) -> Iterator[Reading]:
    """Read ``ipmitool sdr`` or ``sensor``: watts of the machine, or else of its supplies."""
    for text, stamp in log.lines():
        match = _SENSOR.match(text)
        if match is None:
            continue
        name = match[1]
        if supply := _SUPPLY_SENSOR.match(name):
            meter = Meter(f"psu:{supply[1]}", "power supply", "ipmi.sensor", overlaps=("machine",))
        elif _NODE_SENSOR.fullmatch(name) or _TOTAL_SENSOR.match(name):
            meter = Meter("node", "machine", "ipmi.sensor")
        else:
            meter = Meter(name, name, "ipmi.sensor", overlaps=("machine", "power supply"))
        yield Reading(stamp, meter, number(match[2] or match[3]))


def _read_mlperf_meter(log: LogText) -> Iterator[Reading]:
    """Read the log of MLPerf's power meter (SPEC PTDaemon): the total, which adds its channels."""
    short = 0
    for text in log.raw_lines():
        cells = text.split(",")
        if len(cells) < 4 or cells[0] != "Time":
            short += bool(text.strip())
            continue
        meter = Meter("node", "Watts", "ptdaemon.watts", Kind.MEAN_POWER)
        watts = number(cells[3])
        yield Reading(cells[1], meter, watts if watts >= 0 else math.nan)
    log.skipped(short, "that are not readings of the meter")


def _read_mlperf_events(log: LogText) -> Iterator[Reading]:
    """Read ``power_reading`` events of MLPerf Training's logs, in W.

    MLPerf multiplies readings by a stated ``conversion_eff`` (mlcommons/logging,
    ``result_summarizer``); they are left as the meter gave them.
    """
    meter = Meter("node", "power_reading", "mlperf.power_reading", is_momentary=True)
    for event in mllog_events(log):
        key, value = event["key"], event.get("value")
        if key == "power_reading":
            yield Reading(str(event["time_ms"]), meter, number(str(value)))
        elif key == "conversion_eff":
            log.notes.append(f"states conversion_eff {value}, which is not applied")
        elif key == "interconnect_power_est":
            log.notes.append(f"states interconnect_power_est {value}, an estimate that is not read")


def _any(pattern: re.Pattern[str], head: Sequence[str]) -> bool:
    return any(pattern.search(line) for line in head)


FORMATS = (
    Format(
        "tegrastats",
        lambda head: any(_TEGRA_LINE.search(line) and "CPU [" in line for line in head),
        _read_tegrastats,
        timed="tegrastats of JetPack 5 and newer, or tegrastats | ts '%Y-%m-%d %H:%M:%.S'",
    ),
    Format(
        "powermetrics",
        lambda head: _any(_APPLE_SAMPLE, head),
        _read_powermetrics,
        timed="powermetrics --samplers cpu_power -i 1000",
    ),
    Format(
        "powermetrics",
        lambda head: any("<plist" in line for line in head),
        _read_powermetrics_plist,
    ),
    Format(
        "ipmitool dcmi power reading",
        lambda head: _any(_DCMI, head),
        _read_ipmi_power,
        timed="while sleep 1; do date; ipmitool dcmi power reading; done",
    ),
    Format(
        "ipmitool",
        lambda head: _any(_SENSOR, head),
        _read_ipmi_sensors,
        timed="while sleep 5; do date; ipmitool sdr type Current; done",
    ),
    Format("MLPerf's power meter", lambda head: _any(_MLPERF_METER, head), _read_mlperf_meter),
    Format(
        "MLPerf Training",
        lambda head: any(line.startswith(":::MLLOG") for line in head),
        _read_mlperf_events,
    ),
)
