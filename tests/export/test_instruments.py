"""Energy and power as OpenTelemetry metrics, read in memory and sent to a server on loopback."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from waiting import wait_for

from joulelab.export import service
from joulelab.sensors.simulated import SimulatedMachine

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")


@pytest.fixture(scope="module")
def exporter(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOULELAB_SENSORS", SimulatedMachine.default().spec())
        patch.setenv("JOULELAB_HOME", str(tmp_path_factory.mktemp("home")))
        with service.exporting(None, threading.Event()) as made:
            wait_for(lambda: sum(one.power_w > 0 for one in made.snapshot().machine.parts) == 3)
            yield made


def test_instruments_follow_the_semantic_conventions(exporter):
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

    from joulelab.export.instruments import register_instruments

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    register_instruments(exporter, provider)
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    metrics = {metric.name: metric for metric in scope.metrics}
    provider.shutdown()
    assert {name: metric.unit for name, metric in metrics.items()} == {
        "hw.energy": "J",
        "hw.power": "W",
    }
    assert isinstance(metrics["hw.energy"].data, Sum)
    assert metrics["hw.energy"].data.is_monotonic
    parts = {part.key.component: part for part in exporter.snapshot().machine.parts}
    for metric in metrics.values():
        found = {point.attributes["hw.id"]: point for point in metric.data.data_points}
        types = {name: point.attributes["hw.type"] for name, point in found.items()}
        assert types == {"gpu:0": "gpu", "cpu:0": "cpu", "dram:0": "memory"}
        for name, point in found.items():
            assert point.value > 0
            assert point.attributes["joulelab.role"] == "part"
            assert point.attributes["joulelab.source"] == parts[name].key.source
    energies = {one.attributes["hw.id"]: one for one in metrics["hw.energy"].data.data_points}
    for name, point in energies.items():
        assert point.value <= parts[name].energy_j


def test_a_collector_receives_the_metrics(exporter):
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )

    from joulelab.export.instruments import send

    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, ExportMetricsServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    stop = threading.Event()
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}/"
        sending = threading.Thread(target=send, args=(exporter, endpoint, 1.0, stop))
        sending.start()
        wait_for(lambda: received)
        stop.set()
        sending.join()
        server.shutdown()
    path, request = received[0]
    assert path == "/v1/metrics"
    (resource,) = request.resource_metrics
    names = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert names["service.name"] == "joulelab"
    assert {metric.name for metric in resource.scope_metrics[0].metrics} == {
        "hw.energy",
        "hw.power",
    }
