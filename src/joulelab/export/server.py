"""An HTTP server that gives metrics to Prometheus, and nothing else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from joulelab.errors import UserError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
REQUEST_S = 10.0
"""A client has this long to send its request."""
INDEX = b"""<!doctype html><html lang="en"><title>JouleLab</title><h1>JouleLab</h1>
<p>Energy of this machine for Prometheus: <a href="/metrics">/metrics</a></p></html>
"""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves the metrics of a registry at ``/metrics`` from threads of its own.

    Raises:
        UserError: It cannot listen there.
    """

    daemon_threads = True

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        try:
            family, *_, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__((str(where[0]), port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            hint = "choose another --port, or --listen on an address of this machine"
            raise UserError(f"cannot listen on {address}:{port}", why=reason, hint=hint) from error
        self.port = self.server_port
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{self.port}/metrics"
        self.set_app(_application(registry))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()


def _application(registry: CollectorRegistry) -> Application:
    metrics: Application = make_wsgi_app(registry)

    def answer(environment: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return [b""]
        if environment["PATH_INFO"] == "/metrics":
            return metrics(environment, start)
        if environment["PATH_INFO"] == "/":
            start("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return [INDEX]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"only /metrics is here\n"]

    return answer


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def address_string(self) -> str:
        """Return the client's address; its name would be a request of its own."""
        return str(self.client_address[0])

    def log_message(self, *_: Any) -> None:
        """Print nothing for each request."""
