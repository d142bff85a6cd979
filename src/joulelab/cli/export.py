"""``joulelab export``: serve energy and power to Prometheus, or write them to a file."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from joulelab.errors import optional_packages

END_SIGNALS = signal.SIGTERM, signal.SIGINT


@click.command("export")
@click.option("--listen", "address", default="127.0.0.1", show_default=True, metavar="ADDRESS",
    help="Address to serve /metrics on; 0.0.0.0 for every network.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=9836, show_default=True,
    help="Port to serve /metrics on; 0 for any that is free.")  # fmt: skip
@click.option("--textfile", type=click.Path(path_type=Path, dir_okay=False), metavar="PATH",
    help="Write a file for node_exporter, and do not serve.")  # fmt: skip
@click.option("--interval", "interval_s", type=click.FloatRange(min=1), default=15.0,
    show_default=True, metavar="SECONDS",
    help="Time between two writes of --textfile, or two exports of --otlp.")  # fmt: skip
@click.option("--once", is_flag=True, help="With --textfile: write it once and exit.")
@click.option("--otlp", "endpoint", metavar="ENDPOINT",
    help="Send hw.energy and hw.power to an OpenTelemetry collector (OTLP over HTTP), for "
         "example http://127.0.0.1:4318, and do not serve.")  # fmt: skip
@click.option("--sensors", metavar="NAMES",
    help="Sensors to read, for example gpu,cpu. Default: all.")  # fmt: skip
@click.option("--dashboard", is_flag=True, help="Print a dashboard for Grafana as JSON and exit.")
def command(
    address: str,
    port: int,
    textfile: Path | None,
    interval_s: float,
    once: bool,
    endpoint: str | None,
    sensors: str | None,
    dashboard: bool,
) -> None:
    """Export energy, power, carbon and cost to Prometheus.

    Counters and gauges of this machine by component, and of every run on it by component and
    span: of `joulelab run`, of studies and of meters. Needs the export extra.

    \b
    Example:
      joulelab export
      joulelab export --listen 0.0.0.0 --port 9836
      joulelab export --textfile /var/lib/node_exporter/joulelab.prom
      joulelab export --dashboard > joulelab.json
    """
    if dashboard:
        from joulelab.export.dashboard import dashboard_json  # noqa: PLC0415 - no extra is needed

        click.echo(dashboard_json())
        return
    if textfile is not None and endpoint is not None:
        raise click.UsageError("--textfile and --otlp are two ways to export: give one of them")
    if once and textfile is None:
        raise click.UsageError("--once writes a file: add --textfile PATH")
    with optional_packages("cannot export energy", "export" if endpoint is None else "otlp"):
        from joulelab.export import service  # noqa: PLC0415

        if endpoint is not None:
            from joulelab.export import instruments  # noqa: PLC0415
    stop = threading.Event()
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in END_SIGNALS}
    try:
        with service.exporting(None if sensors is None else sensors.split(","), stop) as exporter:
            if textfile is not None:
                service.write(exporter, textfile, interval_s, stop, once=once)
            elif endpoint is not None:
                instruments.send(exporter, endpoint, interval_s, stop)
            else:
                service.serve(exporter, address, port, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
