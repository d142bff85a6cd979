"""The exporter's values as Prometheus metrics: what is not measured has no series, never 0."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import joulelab
from joulelab.export.exporter import Exporter, Snapshot
from joulelab.machine import describe

COMPONENT = ("component", "role", "source", "provenance")
"""Labels of a component's series: its name and role, the sensor, and whether it is measured."""


Row = tuple[Sequence[str], float]
"""The values of the labels of a series, and its own."""


def metrics_of(exporter: Exporter) -> CollectorRegistry:
    """Return the metrics of an exporter, its machine and this process."""
    registry = CollectorRegistry()
    registry.register(_Metrics(exporter))
    ProcessCollector(registry=registry)
    return registry


class _Metrics(Collector):
    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._hardware = describe().hardware_configuration()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: otherwise, registering would measure."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that has a series."""
        snapshot = self._exporter.snapshot()
        for family in (*_of_machine(snapshot), *_of_runs(snapshot), *self._about(snapshot)):
            if family.samples:
                yield family

    def _about(self, snapshot: Snapshot) -> Iterator[Metric]:
        yield _gauge("joulelab_build_info", "Version of JouleLab.", ("version",),
            [((joulelab.__version__,), 1)])  # fmt: skip
        yield _gauge("joulelab_hardware_info", "Hardware and software of this machine.",
            ("part", "description"), [(row, 1) for row in self._hardware.items()])  # fmt: skip
        yield _gauge("joulelab_scrape_duration_seconds",
            "Time that the latest measurement of the machine took, in seconds.", (),
            [((), snapshot.duration_s)])  # fmt: skip


def _of_machine(snapshot: Snapshot) -> Iterator[Metric]:
    machine, currency = snapshot.machine, snapshot.costs.currency or ""
    yield _counter("joulelab_energy_joules",
        "Energy since the exporter started, in joules. Series with role=\"part\" add up to the "
        "machine. Those with role=\"enclosing\" include parts, parts include those with "
        "role=\"enclosed\".",
        COMPONENT, [(part.key, part.energy_j) for part in machine.parts])  # fmt: skip
    yield _gauge("joulelab_power_watts",
        "Mean power of the last second, or of two readings of a slower sensor, in watts.",
        COMPONENT, [(part.key, part.power_w) for part in machine.parts])  # fmt: skip
    yield _gauge("joulelab_energy_uncertainty_ratio",
        "Half the width of the 95 % interval of the energy counter, over its value.",
        ("component",),
        [((part.key.component,), part.uncertainty) for part in machine.parts])  # fmt: skip
    yield _gauge("joulelab_component_up",
        "Whether a component is measured: 1, or 0 while its sensors fail and its other series are "
        "missing.", ("component",),
        [((name,), is_up) for name, is_up in machine.is_measured.items()])  # fmt: skip
    yield _gauge("joulelab_component_absent_info",
        "A source of energy that was missing when the exporter started, and why.",
        ("component", "source", "reason"),
        [((one.component, one.source, str(one)), 1) for one in snapshot.absent])  # fmt: skip
    yield _counter("joulelab_sensor_errors", "Failed readings of a sensor.",
        ("component", "source"),
        [(names, number) for names, number in machine.errors.items()])  # fmt: skip
    yield _counter("joulelab_emissions_grams",
        "Emissions of the machine's energy since the exporter started, in grams of CO2e, "
        "with the PUE of the site.", (), [((), machine.emissions_g)])  # fmt: skip
    yield _counter("joulelab_cost",
        "Cost of the machine's energy since the exporter started, with the PUE of the site.",
        ("currency",), [((currency,), machine.cost)])  # fmt: skip
    factor = snapshot.costs.factor
    yield _gauge("joulelab_carbon_intensity_grams_per_kwh",
        "Carbon intensity of the electricity now, in grams of CO2e per kWh.", ("origin",),
        [((str(factor),), factor.g_per_kwh)] if factor else [])  # fmt: skip


def _of_runs(snapshot: Snapshot) -> Iterator[Metric]:
    runs, currency = snapshot.runs, snapshot.costs.currency or ""
    parts = [((name, *part.key), part) for name, run in runs.items() for part in run.parts]
    spans = [((name, span.name), span) for name, run in runs.items() for span in run.spans]
    yield _gauge("joulelab_runs", "Number of recordings on this machine, for example by "
        "`joulelab run`, a study or a Meter.", (), [((), snapshot.running)])  # fmt: skip
    yield _counter("joulelab_run_energy_joules",
        "Energy of the machine since the run began, in joules. Add up role=\"part\".",
        ("run", *COMPONENT), [(labels, part.energy_j) for labels, part in parts])  # fmt: skip
    yield _gauge("joulelab_run_power_watts",
        "Mean power of the last second during the run, in watts.",
        ("run", *COMPONENT), [(labels, part.power_w) for labels, part in parts])  # fmt: skip
    yield _gauge("joulelab_run_energy_uncertainty_ratio",
        "Half the width of the 95 % interval of the run's energy counter, over its value.",
        ("run", "component"),
        [(labels[:2], part.uncertainty) for labels, part in parts])  # fmt: skip
    yield _counter("joulelab_run_span_energy_joules",
        "Energy of all parts while a span of this name was open, in joules. Spans may enclose "
        "each other.", ("run", "span"),
        [(labels, span.energy_j) for labels, span in spans])  # fmt: skip
    yield _counter("joulelab_run_span_seconds", "Time in which a span of this name was open.",
        ("run", "span"), [(labels, span.duration_s) for labels, span in spans])  # fmt: skip
    yield _counter("joulelab_run_spans", "Finished spans of this name.",
        ("run", "span"), [(labels, span.finished) for labels, span in spans])  # fmt: skip
    yield _counter("joulelab_run_emissions_grams",
        "Emissions of the machine's energy since the run began, in grams of CO2e.",
        ("run",), [((name,), run.emissions_g) for name, run in runs.items()])  # fmt: skip
    yield _counter("joulelab_run_cost", "Cost of the machine's energy since the run began.",
        ("run", "currency"),
        [((name, currency), run.cost) for name, run in runs.items()])  # fmt: skip


def _counter(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), rows)


def _gauge(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), rows)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, rows: Iterable[Row]) -> Metric:
    for labels, value in rows:
        if not math.isnan(value):
            family.add_metric(labels, value)
    return family
