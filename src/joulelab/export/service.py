"""Export until the end is requested: to Prometheus, to a file, or to a collector."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from joulelab.errors import StoreError
from joulelab.export.exporter import Exporter
from joulelab.export.machine_recording import MachineRecording, report
from joulelab.export.metrics import registry
from joulelab.export.server import MetricsServer, write_textfile
from joulelab.machine import describe

FIRST_S = 2.0
"""A file that is written once has the power of this time."""


@contextlib.contextmanager
def exporting(sensors: Sequence[str] | None, stop: threading.Event) -> Iterator[Exporter]:
    """Measure this machine, and search for runs on it until the event is set."""
    machine = MachineRecording(sensors)
    exporter = Exporter(machine)
    thread = threading.Thread(target=exporter.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield exporter
    finally:
        stop.set()
        thread.join()
        exporter.close()


def metrics_of(exporter: Exporter) -> CollectorRegistry:
    """Return the metrics of an exporter and of this machine."""
    return registry(exporter, describe())


def serve(exporter: Exporter, address: str, port: int, stop: threading.Event) -> None:
    """Serve metrics over HTTP until the event is set."""
    server = MetricsServer(metrics_of(exporter), address, port)
    report(f"metrics are at http://{server.address}:{server.port}/metrics; Ctrl-C ends")
    stop.wait()
    server.close()


def write(
    exporter: Exporter, path: Path, interval_s: float, stop: threading.Event, *, once: bool
) -> None:
    """Write metrics to a file, once or until the event is set."""
    metrics = metrics_of(exporter)
    write_textfile(metrics, path)  # A file that cannot be written is an error at once.
    if once:
        stop.wait(FIRST_S)
        write_textfile(metrics, path)
        return
    while not stop.wait(interval_s):
        try:
            write_textfile(metrics, path)
        except StoreError as error:
            report(str(error))
    # A file that nothing updates would look like values of now.
    path.unlink(missing_ok=True)
