"""Export until the end is requested: to Prometheus or to a file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import generate_latest

from joulelab.errors import StoreError
from joulelab.export.exporter import Exporter
from joulelab.export.machine_recording import MachineRecording, report
from joulelab.export.metrics import metrics_of
from joulelab.export.server import MetricsServer
from joulelab.storage import write_whole, writing

FIRST_S = 2.0
"""A file that is written once has the power of this time."""


@contextlib.contextmanager
def exporting(sensors: Sequence[str] | None, stop: threading.Event) -> Iterator[Exporter]:
    """Measure this machine, and search for runs on it until the event is set."""
    exporter = Exporter(MachineRecording(sensors))
    thread = threading.Thread(target=exporter.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield exporter
    finally:
        stop.set()
        thread.join()
        exporter.close()


def serve(exporter: Exporter, address: str, port: int, stop: threading.Event) -> None:
    """Serve metrics over HTTP until the event is set."""
    server = MetricsServer(metrics_of(exporter), address, port)
    report(f"metrics are at {server.url}; Ctrl-C ends")
    stop.wait()
    server.close()


def write(
    exporter: Exporter, path: Path, interval_s: float, stop: threading.Event, *, once: bool
) -> None:
    """Write metrics for node_exporter's textfile collector, once or until the event is set.

    The file is seen whole or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    metrics = metrics_of(exporter)

    def write_now() -> None:
        with writing(path):
            write_whole(path, generate_latest(metrics))

    write_now()  # A file that cannot be written is an error at once.
    if once:
        stop.wait(FIRST_S)
        exporter.measure()
        write_now()
        return
    while not stop.wait(interval_s):
        try:
            write_now()
        except StoreError as error:
            report(str(error))
    # A file that nothing updates would look like values of now.
    path.unlink(missing_ok=True)
