"""Metrics of Prometheus: exporters' text, and the JSON of range queries.

Only metrics of power or energy whose place in a machine is known are read, by the names that their
exporters document. A text without timestamps is read as scraped by a loop that writes a date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Required, TypedDict, TypeVar

from joulelab.errors import UserError
from joulelab.format import first_words
from joulelab.logs.formats.json_text import json_objects
from joulelab.logs.formats.log_text import LogText
from joulelab.logs.formats.meters import Format, Reading, number
from joulelab.logs.series import Kind, Meter
from joulelab.validation import InvalidData, convert

Checked = TypeVar("Checked")
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+(\d{13}))?\s*")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_TYPE = re.compile(r"# (?:TYPE|HELP) [a-zA-Z_:][\w:]* ")


class _Series(TypedDict, total=False):
    metric: dict[str, str]
    values: Required[list[tuple[float, str]]]


class _Metric(NamedTuple):
    kind: Kind
    factor: float  # To W or J.
    component: str
    labels: Sequence[str]  # The first of these that is there says which one it is.
    source: str = ""
    overlaps: tuple[str, ...] = ()


_PACKAGE = "node_rapl_package_joules_total"
_METRICS = {
    # dcgm-exporter (fields 155 and 156, in W and mJ), and its counter next to its power.
    "DCGM_FI_DEV_POWER_USAGE": _Metric(Kind.POWER, 1.0, "gpu", ("gpu",), "nvml.power_usage"),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": _Metric(
        Kind.COUNTER, 1e-3, "gpu", ("gpu",), "nvml.energy_counter"
    ),
    # nvidia_gpu_exporter and others.
    "nvidia_smi_power_draw_watts": _Metric(Kind.POWER, 1.0, "gpu", ("uuid",), "nvml.power_usage"),
    "nvidia_gpu_power_usage_milliwatts": _Metric(
        Kind.POWER, 1e-3, "gpu", ("minor_number", "uuid"), "nvml.power_usage"
    ),
    # node_exporter: the cores are in the package.
    _PACKAGE: _Metric(Kind.COUNTER, 1.0, "cpu", ("index",)),
    "node_rapl_dram_joules_total": _Metric(Kind.COUNTER, 1.0, "dram", ("index",)),
    "node_rapl_psys_joules_total": _Metric(Kind.COUNTER, 1.0, "node", (), overlaps=(_PACKAGE,)),
    # scaphandre.
    "scaph_socket_power_microwatts": _Metric(Kind.POWER, 1e-6, "cpu", ("socket_id",)),
    "scaph_host_power_microwatts": _Metric(
        Kind.POWER, 1e-6, "node", (), overlaps=("scaph_socket_power_microwatts",)
    ),
    # JouleLab's own exporter.
    "joulelab_energy_joules_total": _Metric(Kind.COUNTER, 1.0, "", ("component",)),
}


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Return name, labels and value of each metric in a page of the text format.

    Example:
        >>> list(samples('# TYPE up gauge\\nup{job="a"} 1'))
        [('up', {'job': 'a'}, 1.0)]
    """
    for line in text.splitlines():
        if match := _SAMPLE.fullmatch(line):
            name, labels, value, _ = match.groups()
            yield name, dict(_LABEL.findall(labels or "")), number(value)


def _read_text(log: LogText) -> Iterator[Reading]:
    """Read the text format, scraped again and again: with timestamps in ms, or with dates."""
    skipped = 0
    is_known = False
    others: set[str] = set()
    for text, stamp in log.lines():
        if text.lstrip().startswith("#") or not text.strip():
            continue
        match = _SAMPLE.fullmatch(text)
        if match is None:
            skipped += 1
            continue
        name, labels, value, time = match.groups()
        meter = _meter(name, dict(_LABEL.findall(labels or "")))
        if meter is not None:
            is_known = True
            yield Reading(time or stamp, meter, number(value) * _METRICS[name].factor)
        elif re.search(r"watt|joule|power|energy", name, re.IGNORECASE):
            others.add(name)
    log.skipped(skipped, "that are not metrics")
    _note_others(log, others, is_known)


def _read_json(log: LogText) -> Iterator[Reading]:
    """Read the answer to ``/api/v1/query_range``."""
    is_known = False
    others: set[str] = set()
    for _, answer in json_objects(log):
        found = _checked(log, answer.get("data", {}), dict[str, Any])
        if found.get("resultType") != "matrix":
            raise UserError(
                f"{log.path} has one reading of each metric",
                why=f"it answers a query of type {found.get('resultType')!r}",
                hint="query a range: /api/v1/query_range?query=...&start=...&end=...&step=15s",
            )
        series = _checked(log, found.get("result", []), list[_Series])
        for one in series:
            labels: Mapping[str, str] = one.get("metric", {})
            name = labels.get("__name__", "")
            meter = _meter(name, labels)
            if meter is None:
                others.add(name or "an expression without a name")
                continue
            is_known = True
            for time_s, value in one["values"]:
                yield Reading(f"{time_s:.3f}", meter, number(value) * _METRICS[name].factor)
    _note_others(log, others, is_known)


def _checked(log: LogText, value: Any, kind: type[Checked]) -> Checked:
    try:
        return convert(value, kind)
    except InvalidData as error:
        raise UserError(f"{log.path} is damaged", why=str(error)) from error


def _meter(name: str, labels: Mapping[str, str]) -> Meter | None:
    """Return the meter behind a metric; ``None`` for one that is unknown."""
    metric = _METRICS.get(name)
    if metric is None or labels.get("GPU_I_ID"):
        # Each instance of a divided GPU repeats the power of the whole.
        return None
    which = next((labels[label] for label in metric.labels if labels.get(label)), "0")
    component = f"{metric.component}:{which}" if metric.component else which
    component = component if metric.labels else metric.component
    host = labels.get("Hostname") or labels.get("instance") or ""
    uuid = labels.get("UUID", labels.get("uuid", ""))
    source = metric.source or f"prometheus.{name}"
    return Meter(component, name, source, metric.kind, metric.overlaps, uuid or host)


def _note_others(log: LogText, names: set[str], is_any_known: bool) -> None:
    """Note which metrics were not read; raise an error if there are no others."""
    if names and not is_any_known:
        raise UserError(
            f"{log.path} has no metric of power or energy that JouleLab knows",
            why=f"it has {first_words(sorted(names), 5)}",
            hint="write one as CSV with the columns time and power_w, or time and energy_j",
        )
    if names:
        log.notes.append(f"did not read {', '.join(sorted(names))}: may be part of other meters")


def _is_text(head: Sequence[str]) -> bool:
    return any(_TYPE.match(line) for line in head) or any(
        (match := _SAMPLE.fullmatch(line)) and match[1] in _METRICS for line in head
    )


FORMATS = (
    Format(
        "a Prometheus exporter",
        _is_text,
        _read_text,
        timed="while sleep 1; do date; curl -s HOST:9400/metrics; done",
    ),
    Format(
        "Prometheus",
        lambda head: '"resultType"' in "".join(head),
        _read_json,
    ),
)
