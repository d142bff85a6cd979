"""The machine's energy and power as OpenTelemetry metrics, by its semantic conventions.

``hw.energy`` (J, a counter) and ``hw.power`` (W, a gauge) with ``hw.id``, ``hw.type`` and
``hw.parent``: https://opentelemetry.io/docs/specs/semconv/hardware/
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

import joulelab
from joulelab.export.counters import Part
from joulelab.export.exporter import Exporter
from joulelab.export.machine_recording import report
from joulelab.recording.launcher import host_name

TYPES = {
    "gpu": "gpu",
    "cpu": "cpu",
    "dram": "memory",
    "psu": "power_supply",
    "node": "enclosure",
    "plug": "enclosure",
}
"""``hw.type`` of each kind of component that the conventions have."""
METRICS_PATH = "/v1/metrics"
Callback = Callable[[CallbackOptions], Iterable[Observation]]


def register_instruments(exporter: Exporter, provider: MeterProvider) -> None:
    """Register ``hw.energy`` and ``hw.power``, which measure when they are collected.

    Args:
        exporter: What measures.
        provider: For example that of a program which exports other metrics already.

    Series with ``joulelab.role="part"`` add up to the machine; ``"enclosing"`` ones include parts.
    """
    meter = provider.get_meter("joulelab", joulelab.__version__)

    def observe(attribute: str) -> list[Callback]:
        def callback(_: CallbackOptions) -> Iterator[Observation]:
            for part in exporter.snapshot().machine.parts:
                if not math.isnan(value := getattr(part, attribute)):
                    yield Observation(value, _attributes(part))

        return [callback]

    meter.create_observable_counter(
        "hw.energy", observe("energy_j"), "J", "Energy since the exporter started"
    )
    meter.create_observable_gauge(
        "hw.power", observe("power_w"), "W", "Mean power of the last second"
    )


def send(exporter: Exporter, endpoint: str, interval_s: float, stop: threading.Event) -> None:
    """Send metrics to a collector by OTLP over HTTP until the event is set."""
    url = endpoint.rstrip("/").removesuffix(METRICS_PATH) + METRICS_PATH
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=url), export_interval_millis=1e3 * interval_s
    )
    resource = Resource.create({"service.name": "joulelab", "host.name": host_name()})
    provider = SdkMeterProvider([reader], resource)
    register_instruments(exporter, provider)
    report(f"metrics are sent to {url}; Ctrl-C ends")
    stop.wait()
    provider.shutdown()


def _attributes(part: Part) -> dict[str, str]:
    kind = part.key.component.partition(":")[0]
    return {
        "hw.id": part.key.component,
        "hw.type": TYPES.get(kind, kind),
        "joulelab.role": part.key.role,
        "joulelab.source": part.key.source,
        "joulelab.provenance": str(part.key.provenance),
    }
