"""A real Prometheus (Debian's package) on loopback that scrapes once a second."""

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from waiting import wait_for

CONFIGURATION = """
global: {{scrape_interval: {interval_s}s, scrape_timeout: {interval_s}s}}
scrape_configs:
  - job_name: joulelab
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def why_not():
    """Why there can be no Prometheus here; empty if there can."""
    return "" if shutil.which("prometheus") else "apt-get install prometheus"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Prometheus:
    """The server; use as a context manager."""

    def __init__(self, directory, port, interval_s=1):
        directory.mkdir()
        (directory / "prometheus.yml").write_text(
            CONFIGURATION.format(port=port, interval_s=interval_s)
        )
        self.address = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={self.address}",
                "--scrape.discovery-reload-interval=100ms",  # Default: 5 s until the first scrape.
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self):
        wait_for(self._is_ready)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def _is_ready(self):
        with contextlib.suppress(urllib.error.URLError, OSError):
            return urllib.request.urlopen(f"http://{self.address}/-/ready").status == 200
        return False

    def query(self, text, **parameters):
        """The result of a query now: pairs of labels and a value, or values for a range."""
        parameters["query"] = text
        kind = "query_range" if "step" in parameters else "query"
        url = f"http://{self.address}/api/v1/{kind}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{text}: {error.read().decode()}") from error
        return [
            (row["metric"], row.get("values") or float(row["value"][1]))
            for row in found["data"]["result"]
        ]
