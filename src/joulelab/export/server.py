"""An HTTP server for Prometheus, and a file for node_exporter's textfile collector."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app

from joulelab.errors import UserError
from joulelab.storage import write_whole, writing

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
REQUEST_S = 10.0
"""A client has this long to send its request."""
INDEX = b"""<!doctype html><html lang="en"><title>JouleLab</title><h1>JouleLab</h1>
<p>Energy of this machine for Prometheus: <a href="/metrics">/metrics</a></p></html>
"""


class MetricsServer:
    """Serves the metrics of a registry at ``/metrics`` from threads of its own.

    Raises:
        UserError: It cannot listen there.
    """

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        try:
            family, *_, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
            server = type("_OfFamily", (_Server,), {"address_family": family})
            self._server: WSGIServer = make_server(
                str(where[0]), port, _application(registry), server, _Handler
            )
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            hint = "choose another --port, or --listen on an address of this machine"
            raise UserError(f"cannot listen on {address}:{port}", why=reason, hint=hint) from error
        self.port = int(self._server.server_address[1])
        self.address = f"[{address}]" if ":" in address else address
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def write_textfile(registry: CollectorRegistry, path: Path) -> None:
    """Write all metrics to a file, which is seen whole or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    with writing(path):
        write_whole(path, generate_latest(registry))


def _application(registry: CollectorRegistry) -> Application:
    metrics: Application = make_wsgi_app(registry)

    def answer(environment: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        path, method = environment["PATH_INFO"], environment["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            start("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return [b""]
        if path == "/metrics":
            return metrics(environment, start)
        if path == "/":
            start("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return [INDEX]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"only /metrics is here\n"]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def address_string(self) -> str:
        """Return the client's address; its name would be a request of its own."""
        return str(self.client_address[0])

    def log_message(self, *_: Any) -> None:
        """Print nothing for each request."""
