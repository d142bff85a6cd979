"""Log and refuse every use of the network; Python imports this module at start-up."""

import os
import sys
from pathlib import Path

OUTWARD = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
LOCAL = ("127.", "::1", "localhost", "/")


def _notice(event, arguments):
    if event not in OUTWARD:
        return
    address = (
        arguments[0] if event in ("socket.getaddrinfo", "socket.gethostbyname") else arguments[1]
    )
    host = address[0] if isinstance(address, tuple) else address
    host = host.decode() if isinstance(host, bytes) else host
    if host is None or host == os.uname().nodename or str(host).startswith(LOCAL):
        return
    with Path(os.environ["NETWORK_LOG"]).open("a") as log:
        log.write(f"{event} {host} by {sys.argv}\n")
    raise PermissionError(f"the network was reached for: {event} {host}")


if "NETWORK_LOG" in os.environ:  # Not where a test runner imports this as any other module.
    sys.addaudithook(_notice)
